import subprocess
import sys

import pytest

import indexes

HEAVY = ("torch", "faiss", "pyarrow", "numpy")


@pytest.mark.parametrize("module", ["indexes", "indexes.errors"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_whole_interface_knows_no_torch_and_waits_with_faiss() -> None:
    code = "import sys; from indexes import *; print('torch' in sys.modules, 'faiss' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_public_name_resolves() -> None:
    assert all(getattr(indexes, name).__name__ == name for name in indexes.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = indexes.nonsense
