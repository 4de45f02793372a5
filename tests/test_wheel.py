"""A built wheel carries everything it needs: generic package names must not lean on the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("matvit", "retrieval", "indexes", "cli")
NOTEBOOKS = "notebooks"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in (*PACKAGES, NOTEBOOKS):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        wheel.extractall(out / "site")
    return out / "site"


def test_holds_code_recipes_weights_notebooks_and_no_tests(unpacked: Path) -> None:
    top = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {*PACKAGES, NOTEBOOKS}
    wanted = ["matvit/training/recipes/digits.toml", "matvit/checkpoints/digits/model.safetensors"]
    wanted += ["retrieval/showing/web_page.html.jinja"]
    wanted += [f"{package}/py.typed" for package in PACKAGES]
    wanted += [f"{NOTEBOOKS}/{path.name}" for path in (ROOT / NOTEBOOKS).glob("[0-9]*")]
    assert [name for name in wanted if not (unpacked / name).is_file()] == []


@pytest.mark.parametrize(
    "command, answer",
    [
        ("plan -m {digits} --budget S --json", '"submodel": "S"'),
        ("notebook", "04_your_own_images"),
    ],
)
def test_runs_outside_the_checkout(unpacked: Path, tmp_path: Path, command: str, answer: str) -> None:
    words = command.format(digits=unpacked / "matvit" / "checkpoints" / "digits").split()
    code = (
        "import sys; sys.argv[0] = 'matvit'; from cli.main import main; import cli\n"
        "assert cli.__file__.startswith(sys.argv.pop(1)), cli.__file__\n"
        "main()"
    )
    # An editable install of the checkout sits behind PYTHONPATH on sys.path.
    result = subprocess.run(
        [sys.executable, "-c", code, str(unpacked), *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert answer in result.stdout
