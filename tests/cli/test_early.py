"""Mistakes that need no torch are told without it: loading it takes seconds."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import files_of

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from cli.main import main; main()"


@pytest.mark.parametrize(
    "command, said",
    [
        ("query nowhere.jpg -i {index}", "nowhere.jpg: no such file"),
        ("query {image} -i nowhere", "there is no index at nowhere: make one with `matvit index build`"),
        ("query {image} -i {index} --where 'a ='", "filter, character 4: expected a number or a text"),
        (
            "query {image} -i {index} --where 'a = 1'",
            "filter, character 1: there is no column a: there are key",
        ),
        ("query {image} -i {index} -m nowhere/", "no directory 'nowhere/': say where"),
        ("query {image} -i {index} -m {empty}", "{empty} is no checkpoint: it has no config.json"),
        ("query {image} -i {index} --sheet {image}/x.png", "{image}: "),
        ("query --vectors nowhere.npy -i {index}", "nowhere.npy: No such file or directory"),
        ("query {empty} -i {index}", "{empty}: no images in this folder"),
        ("index build nowhere -m {model} -o {out}", "nowhere: no such file or folder; check the path"),
        ("index build {empty} -m {model} -o {out}", "{empty}: no images and no .tar shards in this folder"),
        ("index build {images} -m nowhere/ -o {out}", "no directory 'nowhere/': say where"),
        ("index build {images} -m {model} -o {index}", "{index} exists: choose another directory"),
        ("index add nowhere -i {index}", "nowhere: no such file or folder; check the path"),
        ("index add {images} -i nowhere", "there is no index at nowhere"),
        ("index info -i nowhere", "there is no index at nowhere"),
        ("evaluate nowhere -i {index}", "nowhere: no such file or folder; check the path"),
        ("evaluate {images} -i nowhere", "there is no index at nowhere"),
        ("calibrate nowhere -i {index}", "nowhere: no such file or folder; check the path"),
        ("calibrate {empty} -i {index}", "{empty}: no images and no .tar shards in this folder"),
        ("calibrate --fit nowhere -i {index}", "nowhere: no such file or folder; check the path"),
        ("elasticize nowhere -m {model} -o {out}", "nowhere: no such file or folder; check the path"),
        ("elasticize {images} -m nowhere/ -o {out}", "no directory 'nowhere/': say where"),
        ("plan -m nowhere/", "no directory 'nowhere/': say where"),
        ("plan -i nowhere", "there is no index at nowhere"),
        ("bench -m nowhere/", "no directory 'nowhere/': say where"),
        ("train nowhere.toml --data {images} -o {out}", "no recipe 'nowhere.toml'"),
        ("train digits --data nowhere -o {out}", "nowhere: no such file or folder; check the path"),
    ],
)
def test_a_mistake_is_told_before_torch_is_loaded(
    index: Path, checkpoint: Path, corpus: Path, tmp_path: Path, command: str, said: str
) -> None:
    places = {
        "index": index,
        "model": checkpoint,
        "images": corpus,
        "image": files_of(corpus)[0],
        "empty": tmp_path / "empty",
        "out": tmp_path / "out",
    }
    (tmp_path / "empty").mkdir()
    arguments = [part.format(**places) for part in shlex.split(command)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"matvit: {said.format(**places)}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
