"""`matvit import scenic`: published checkpoints into ours."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

GOLDEN = Path(__file__).parents[1] / "matvit" / "golden"
STATE = GOLDEN / "checkpoint_2"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))


def test_a_file(matvit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.progress._QUIET_SECONDS", 0)
    done = matvit("import", "scenic", STATE, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    facts = {line.split("  ")[0].strip(): line.split()[-1] for line in done.out.splitlines() if line.strip()}
    assert facts["layers"] == "4"
    assert facts["hidden units"] == "192"
    assert facts["image size"] == "32"
    assert facts["bytes left out"] == "995289"
    assert facts["global step"] == "2"
    assert "bytes read: 1.5 MB/1.5 MB, " in done.err
    assert "downloaded" not in done.err
    assert f"saved {tmp_path / 'out'}" in done.err
    plan = matvit("plan", "-m", tmp_path / "out", "--json")
    assert len(json.loads(plan.out)) == 13


def test_json(matvit: Callable, tmp_path: Path) -> None:
    done = matvit("import", "scenic", GOLDEN / "params_a.msgpack", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["checkpoint"] == str(tmp_path / "out")
    assert (found["layers"], found["width"], found["heads"], found["classes"]) == (4, 48, 3, 10)
    assert (found["patch_size"], found["image_size"], found["global_step"]) == (8, 32, None)


@pytest.mark.parametrize(
    "source, code, match",
    [
        ("nowhere", 2, "no file 'nowhere', nor a published MatViT among matvit-b16-in1k"),
        ("http://example.org/x", 1, "http://example.org/x is refused: only https is downloaded"),
        ("http://localhost:1/x", 1, "cannot download http://localhost:1/x: Connection refused"),
        (GOLDEN / "golden_a.npz", 1, "is no Flax checkpoint"),
        (
            GOLDEN / "chunked_example.msgpack",
            2,
            "holds no Vision Transformer of Scenic's: at its top is b, w",
        ),
        (GOLDEN, 1, "is not a file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    matvit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: object, code: int, match: str
) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    done = matvit("import", "scenic", source, "-o", tmp_path / "out")
    assert (done.code, done.out) == (code, "")
    *_, last = done.err.splitlines()
    assert match in last
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_cut_off_file(matvit: Callable, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(STATE.read_bytes()[:-1000])
    done = matvit("import", "scenic", tmp_path / "cut", "-o", tmp_path / "out")
    assert done.code == 1
    assert "cut is cut off after 1491798 bytes: copy or download it again" in done.err


def test_another_pooling(matvit: Callable, tmp_path: Path) -> None:
    done = matvit("import", "scenic", STATE, "-o", tmp_path / "out", "--classifier", "gmp")
    assert done.code == 2
    assert "classifier 'gmp' is not known here" in done.err
    tree = msgpack.unpackb((GOLDEN / "params_a.msgpack").read_bytes())
    (tmp_path / "map").write_bytes(msgpack.packb({**tree, "MAPHead_0": {"probe": tree["cls"]}}))
    done = matvit("import", "scenic", tmp_path / "map", "-o", tmp_path / "out")
    assert done.code == 2
    assert "an attention-pooling head (classifier 'map')" in done.err


def test_a_file_and_a_place_that_are_no_utf_8(matvit: Callable, tmp_path: Path) -> None:
    file, out = (tmp_path / os.fsdecode(name) for name in (b"\xff", b"\xfe"))
    shutil.copy(STATE, file)
    done = matvit("import", "scenic", file, "-o", out)
    assert (done.code, done.out) == (1, "")
    assert "\\udcfe' is not UTF-8" in done.err
    done = matvit("import", "scenic", file, "-o", tmp_path / "out")
    assert done.code == 0
    assert len(json.loads(matvit("plan", "-m", tmp_path / "out", "--json").out)) == 13


def test_help(matvit: Callable) -> None:
    done = matvit("import", "scenic", "--help")
    assert done.code == 0
    assert "Example: matvit import scenic matvit-b16-in1k -o matvit-b16" in done.out
    assert matvit("import").code == 2
