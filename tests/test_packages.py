"""What holds of every package's face."""

import importlib
import pkgutil

import pytest

PACKAGES = ("matvit", "retrieval", "indexes", "cli", "notebooks")


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_hides_a_module(name: str) -> None:
    # `import matvit.elastic as m` gave a function: the name in the package had replaced the module.
    package = importlib.import_module(name)
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    assert modules
    for module in modules:
        if not module[0].isdigit():  # notebooks are no modules
            imported = importlib.import_module(f"{name}.{module}")
            assert getattr(package, module) is imported
            assert module not in getattr(package, "__all__", ())
