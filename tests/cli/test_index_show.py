"""`matvit index info` and `verify`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from entries import keys_of
from small_world import files_of, picture, shard_of

from indexes import Index


@pytest.fixture
def photos(corpus: Path, tmp_path: Path) -> Path:
    return shutil.copytree(corpus / "red", tmp_path / "photos" / "red").parent


@pytest.fixture
def out(matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path) -> Path:
    assert matvit("index", "build", photos, "-m", checkpoint, "-o", tmp_path / "i").code == 0
    return tmp_path / "i"


# --- info ---


def test_every_fact(matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    photos, out = shutil.copytree(corpus, tmp_path / "photos"), tmp_path / "i"
    for name in ("copy", "again"):
        (photos / "red" / f"{name}.png").write_bytes((photos / "red" / "01.png").read_bytes())
    (photos / "red" / "broken.png").touch()
    build = ["index", "build", photos, "-m", checkpoint, "-o", out]
    kind = ["--factory", "HNSW16", "--rerank", "30", "--device", "cpu"]
    assert matvit(*build, *kind).code == 0
    assert matvit("index", "remove", "-i", out, "--where", "label = 'blue'").code == 0
    assert matvit("index", "add", corpus / "blue", "-i", out, "--restore", "--device", "cpu").code == 0

    done = matvit("index", "info", "-i", out, "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    manifest = Index.open(out).manifest
    assert 0 < facts.pop("recall") <= 1
    assert facts.pop("query ms") > 0
    assert facts.pop("bytes a vector") == pytest.approx(manifest.kind.bytes_per_vector, abs=0.05)
    assert facts.pop("parameters").startswith("efSearch=")
    assert facts.pop("search").startswith("FAISS ")
    assert facts == {
        "images": 42,
        "removed": 8,
        "kept out": 8,
        "not readable": 1,
        "exact duplicates": 2,
        "classes": 4,  # the blue ones, added from their own folder, have no label
        "columns": "key, path, label, width, height, date, camera, latitude, longitude, content, state, "
        "duplicate_of",
        "sources": f"{photos}, {corpus}/blue",
        "key prefixes": None,
        "excluded": None,
        "model": "matvit_tiny_patch16_224",
        "weights sha256": manifest.encoder.weights_sha256,
        "checkpoint": str(checkpoint),
        "dimensions": 32,
        "pooling": "token",
        "projection": None,
        "metric": "cosine",
        "budget auto": None,
        "curve": None,
        "kind": "HNSW16",
        "rerank": 30,
        "bytes": sum(file.stat().st_size for file in files_of(out) if file.name != "manifest.json"),
        "created": manifest.created,
        "command": f"matvit index add {corpus}/blue -i {out} --restore --device cpu",
    }
    plain = matvit("index", "info", "-i", out)
    assert (plain.code, plain.err) == (0, "")
    said = [" ".join(line.split()) for line in plain.out.splitlines()]
    for name, value in json.loads(done.out).items():
        assert name == "search" or f"{name} {value}" in said


def test_columns_that_a_source_carries(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    shard_of(tmp_path / "x.tar", files_of(corpus)[:3])
    (tmp_path / "l.txt").write_text(str(files_of(corpus)[5]))
    assert matvit("index", "build", tmp_path / "x.tar", "-m", checkpoint, "-o", tmp_path / "i").code == 0
    assert matvit("index", "add", tmp_path / "l.txt", "-i", tmp_path / "i").code == 0
    facts = json.loads(matvit("index", "info", "-i", tmp_path / "i", "--json").out)
    assert (facts["images"], facts["classes"]) == (4, 1)
    assert facts["sources"] == f"{tmp_path}/x.tar, {tmp_path}/l.txt"


def test_names_cannot_speak_to_the_terminal(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    odd = shutil.copytree(corpus / "red", tmp_path / "[red]\x1b[31m\nx")
    assert matvit("index", "build", odd, "-m", checkpoint, "-o", tmp_path / "i").code == 0
    done = matvit("index", "info", "-i", tmp_path / "i")
    assert "[red]\\x1b[31m\\nx" in done.out
    assert "\x1b" not in done.out


# --- verify ---


def test_rows_are_embedded_again(matvit: Callable, photos: Path, out: Path) -> None:
    done = matvit("index", "verify", "-i", out, "--rows", 5, "--json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer.pop("worst_key") in keys_of(Index.open(out))
    assert answer.pop("worst_cosine") == pytest.approx(1, abs=1e-6)
    assert answer == {"sound": True, "problems": [], "embedded_again": 5}
    assert "5 images embedded again: cosine at least 1.000000" in done.err
    assert done.err.splitlines()[-1] == f"{out}: every file is as it was written"

    picture("checks", 0).save(photos / "red" / "03.png")
    done = matvit("index", "verify", "-i", out, "--rows", 1000, "--json")
    answer = json.loads(done.out)
    assert (done.code, answer["sound"]) == (1, False)
    assert (answer["worst_key"], answer["embedded_again"]) == ("red/03.png", 8)
    assert answer["worst_cosine"] < 0.99
    assert "red/03.png: embeds to something else now" in answer["problems"][0]


def test_images_that_are_gone_are_problems(matvit: Callable, photos: Path, out: Path) -> None:
    (photos / "red" / "03.png").unlink()
    (photos / "red" / "05.png").write_bytes(b"broken")
    assert matvit("index", "verify", "-i", out).code == 0, "the files of the index are as they were"
    done = matvit("index", "verify", "-i", out, "--rows", 8, "--json")
    assert done.code == 1
    problems = [f"red/03.png: no longer at {photos}/red/03.png", "red/05.png: not an image"]
    answer = json.loads(done.out)
    assert (answer["sound"], answer["problems"], answer["embedded_again"]) == (False, problems, 6)
    assert done.err.splitlines()[-2:] == problems

    shutil.rmtree(photos)
    done = matvit("index", "verify", "-i", out, "--rows", 8, "--json")
    answer = json.loads(done.out)
    assert (done.code, answer["embedded_again"], len(answer["problems"])) == (1, 0, 8)
    assert "worst_key" not in answer


def test_a_damaged_index_is_not_embedded_again(matvit: Callable, out: Path, checkpoint: Path) -> None:
    (out / "extra.txt").write_text("?")
    done = matvit("index", "verify", "-i", out, "--rows", 3, "--json", "-m", checkpoint / "nowhere")
    assert done.code == 1
    assert json.loads(done.out) == {"sound": False, "problems": ["extra.txt: not part of this index"]}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--rows", "-1"), "--rows"),
        (("--rows", "x"), "--rows"),
        (("--rows", "2", "-m", "{other}"), "this index needs"),
    ],
)
def test_what_cannot_be_verified(
    matvit: Callable, out: Path, other_checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = matvit("index", "verify", "-i", out, *(word.format(other=other_checkpoint) for word in arguments))
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.err
