import subprocess
import sys

import pytest

import retrieval

HEAVY = ("torch", "faiss", "timm", "numpy", "matplotlib")


def test_importing_the_packages_loads_nothing_heavy() -> None:
    code = f"import sys, retrieval, indexes, cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    assert all(getattr(retrieval, name).__name__ == name for name in retrieval.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = retrieval.nonsense
