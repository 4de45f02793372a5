"""timm knows the architectures whoever is imported first, and values wait for nobody."""

import subprocess
import sys

import pytest

CREATE = "print(type(timm.create_model('matvit_tiny_patch16_224', depth=1)).__name__)"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "imports",
    [
        "import timm, matvit",
        "import matvit, timm",
        "import matvit; from timm.models import create_model; import timm",
        "import matvit.submodels.submodel, timm",
        "import matvit.weights.model_names, timm",
        "import matvit.vision.architectures, timm",
        "import matvit; matvit.load; import timm",
        "import retrieval, matvit; retrieval.Encoder; import timm",
    ],
)
def test_timm_creates_them_in_any_order_of_imports(imports: str) -> None:
    assert run(f"{imports}; {CREATE}") == "MatViT"


def test_timm_is_itself_afterwards() -> None:
    code = """
import importlib.resources, inspect, sys
import matvit, timm
print(type(timm.__loader__).__name__, type(timm.__spec__.loader).__name__)
print(bool(inspect.getsource(timm)), importlib.resources.files("timm").joinpath("version.py").is_file())
print([finder for finder in sys.meta_path if "matvit" in type(finder).__module__])
"""
    assert run(code).split() == ["SourceFileLoader", "SourceFileLoader", "True", "True", "[]"]


def test_without_timm_its_absence_is_what_is_said() -> None:
    code = (
        "import sys, matvit\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try:\n    import timm\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert run(code) == "timm"


@pytest.mark.parametrize(
    "what",
    [
        "import matvit.submodels.submodel, matvit.submodels.budget, matvit.submodels.cost",
        "import matvit.submodels.profile, matvit.submodels.protocol",
        "import matvit; matvit.Submodel((1, 2))",
    ],
)
def test_values_load_neither_torch_nor_timm_nor_numpy(what: str) -> None:
    heavy = "[name for name in ('torch', 'timm', 'numpy') if name in sys.modules]"
    assert run(f"import sys; {what}; print({heavy})") == "[]"


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    import matvit

    assert matvit.__version__ == version("matvit")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        matvit.nothing  # noqa: B018
