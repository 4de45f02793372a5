"""`matvit index`: a thousand images of which seven are broken, a build that is killed, checks."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of, labels_of, paths_of, vectors_of
from small_world import files_of, picture, shard_of

from indexes import Index, verify
from indexes.disk.rows import read_failures


@pytest.fixture
def no_hang() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2**20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.usefixtures("no_hang")
def test_a_thousand_images_of_which_seven_are_broken(
    matvit: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos.index"
    photos.mkdir()
    image = picture("red", 0)
    for number in range(993):
        image.putpixel((number % 16, number // 16 % 16), (number % 256, 7, 200))
        image.save(photos / f"{number:04}.png")
    jpeg = io.BytesIO()
    picture("red", 0, side=64).save(jpeg, "JPEG")
    (photos / "truncated.jpg").write_bytes(jpeg.getvalue()[:-60])
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("not what the name says")
    (photos / "bomb.png").write_bytes(png_bomb(60_000))
    (photos / "wrong.heic").write_text("nor this")
    (photos / "x.jpg").mkdir()  # a folder, in which nothing is
    (photos / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(photos / "y.jpg")

    done = matvit("index", "build", photos, "-m", checkpoint, "-o", out)
    assert done.code == 0
    assert f"993 images indexed, 7 not readable: {out}" in done.err
    assert len(Index.open(out)) == 993
    assert verify(out) == []
    failures = {f["key"]: f["reason"] for f in read_failures(out / "failures.parquet").to_pylist()}
    assert failures == {
        "truncated.jpg": "truncated image",
        "empty.jpg": "empty file (0 bytes)",
        "text.jpg": "not an image",
        "bomb.png": "60000 x 60000 pixels is over the limit of 178956970",
        "wrong.heic": "not an image",
        "link.jpg": "broken symlink",
        "y.jpg": "not a regular file (FIFO)",
    }
    for key, reason in failures.items():
        assert f"not indexed: {key}: {reason}" in done.err


def contents(index: Path) -> tuple[list, list, list, np.ndarray]:
    opened = Index.open(index)
    return keys_of(opened), paths_of(opened), labels_of(opened), vectors_of(opened)


def test_a_killed_build_leaves_no_index_and_is_continued(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    files = files_of(corpus)
    (tmp_path / "shards").mkdir()
    for i in range(8):
        shard_of(tmp_path / "shards" / f"x-{i:03}.tar", files)
    out = tmp_path / "x.index"
    # One image a batch: the build is slow enough to be caught.
    command = ["index", "build", str(tmp_path / "shards"), "-m", str(checkpoint), "--batch-size", "1", "-o"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", *command, str(out)],
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "x.index.partial" / "parts" / "part-00000.parquet"
    while process.poll() is None and not first.exists():
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    done = matvit("query", files[0], "-i", out)
    assert done.code == 1
    assert "is not finished: run the same `matvit index build` again" in done.err

    finished = len(list(first.parent.glob("*.parquet")))
    assert 1 <= finished < 8
    done = matvit(*command, out, "--json")
    assert done.code == 0
    assert f"{40 * finished} images were embedded before this run was interrupted, and were not" in done.err
    assert json.loads(done.out) == {"index": str(out), "indexed": 320, "failures": 0}

    assert matvit(*command, tmp_path / "undisturbed.index").code == 0
    continued, undisturbed = contents(out), contents(tmp_path / "undisturbed.index")
    assert continued[:3] == undisturbed[:3]
    np.testing.assert_allclose(continued[3], undisturbed[3], atol=1e-3)
    assert matvit("index", "verify", "-i", out).code == 0


def test_an_existing_index_is_refused(matvit: Callable, checkpoint: Path, corpus: Path, index: Path) -> None:
    before = (index / "manifest.json").read_bytes()
    done = matvit("index", "build", corpus, "-m", checkpoint, "-o", index, "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"matvit: {index} exists: choose another directory, or remove it first\n"
    assert (index / "manifest.json").read_bytes() == before


def test_build_remembers_its_command(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two words.index"
    assert matvit("index", "build", corpus, "-m", checkpoint, "-o", out).code == 0
    assert Index.open(out).manifest.command == (
        f"matvit index build {corpus} -m {checkpoint} -o '{tmp_path}/two words.index'"
    )


def test_a_relative_source_is_found_again_from_elsewhere(
    matvit: Callable,
    checkpoint: Path,
    corpus: Path,
    queries: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(corpus.parent)
    model = os.path.relpath(checkpoint)
    assert matvit("index", "build", corpus.name, "-m", model, "-o", tmp_path / "i").code == 0
    monkeypatch.chdir(tmp_path)
    done = matvit("evaluate", queries, "-i", "i", "-b", "XL", "--same-encoder", "--raw-pixels", "--json")
    assert done.code == 0
    assert json.loads(done.out)["points"][0]["queries"] == 20


def test_more_than_twenty_failures_are_not_all_told(
    matvit: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    picture("red", 0).save(tmp_path / "photos" / "good.png")
    for number in range(25):
        (tmp_path / "photos" / f"{number}.jpg").touch()
    done = matvit("index", "build", tmp_path / "photos", "-m", checkpoint, "-o", tmp_path / "i")
    assert done.code == 0
    assert done.err.count("not indexed: ") == 20
    assert "and 5 more in" in done.err


def test_info(matvit: Callable, index: Path, corpus: Path) -> None:
    done = matvit("index", "info", "-i", index, "--json")
    facts = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    manifest = Index.open(index).manifest
    assert facts["images"] == 40
    assert facts["sources"] == str(corpus)
    assert facts["weights sha256"] == manifest.encoder.weights_sha256
    assert (facts["kind"], facts["recall"], facts["classes"]) == ("Flat", 1.0, 5)
    plain = matvit("index", "info", "-i", index)
    assert all(str(value) in plain.out for name, value in facts.items() if name != "command")


def test_verify_finds_a_flipped_byte(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    assert matvit("index", "build", corpus, "-m", checkpoint, "-o", out).code == 0
    sound = matvit("index", "verify", "-i", out, "--json")
    assert (sound.code, json.loads(sound.out)) == (0, {"sound": True, "problems": []})

    vectors = out / "vectors" / "part-00000.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    damaged = matvit("index", "verify", "-i", out, "--json")
    assert damaged.code == 1
    assert json.loads(damaged.out) == {
        "sound": False,
        "problems": ["vectors/part-00000.npy: its bytes have changed"],
    }
    plain = matvit("index", "verify", "-i", out)
    assert (plain.code, plain.out) == (1, "")
    assert plain.err == "vectors/part-00000.npy: its bytes have changed\n"
