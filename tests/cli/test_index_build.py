"""`matvit index build` and `add`: kinds, what a nightly run finds, and what is refused in one line."""

import errno
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from entries import column_of, keys_of, paths_of
from failing_disk import fail_below
from PIL import Image
from small_world import files_of, picture, shard_of

from indexes import Index, verify
from indexes.disk.rows import read_failures
from indexes.disk.staging import Staging
from retrieval import Encoder, build_index, open_source
from retrieval.upkeep.known_files import Known


@pytest.fixture
def photos(corpus: Path, tmp_path: Path) -> Path:
    """Sixteen images of the corpus, to be changed."""
    for name in ("blue", "red"):
        shutil.copytree(corpus / name, tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def out(matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path) -> Path:
    done = matvit("index", "build", photos, "-m", checkpoint, "-o", tmp_path / "i")
    assert done.code == 0, done.err
    return tmp_path / "i"


def one_line(done: Any, message: str, code: int = 2) -> None:
    assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1), done.err
    assert message in done.err


def told(done: Any) -> list[str]:
    """What was said beside progress."""
    return [line for line in done.err.splitlines() if not line.startswith("images embedded: ")]


def live_keys(index: Path) -> list[str]:
    opened = Index.open(index)
    return column_of(opened, "key")


def later(file: Path) -> None:
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


# --- add ---


def counts(out: Path, indexed: int, *, failures: int = 0, **this_run: int) -> dict[str, object]:
    """What --json prints: of the index, and of what happened in this run."""
    nothing = dict.fromkeys(("new", "changed", "moved", "not_readable", "kept_out", "restored"), 0)
    return {"index": str(out), "indexed": indexed, "failures": failures, **nothing, **this_run}


def test_removed_stays_removed(matvit: Callable, photos: Path, out: Path) -> None:
    assert matvit("index", "remove", "red/01.png", "-i", out).code == 0
    done = matvit("index", "add", photos, "-i", out)
    assert told(done)[-1] == "1 images were removed earlier and stay so: --restore brings them back"
    assert len(Index.open(out)) == 15
    done = matvit("index", "add", photos, "-i", out, "--restore", "--json")
    assert told(done)[-2:] == [f"1 new; 16 images now: {out}", "1 images that had been removed are back"]
    assert json.loads(done.out) == counts(out, 16, new=1, restored=1)


def test_labels_are_asked_for_or_seen(
    matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (photos / "red" / "deeper").mkdir()
    shutil.copy(photos / "red" / "01.png", photos / "red" / "deeper")
    build = ("index", "build", photos, "-m", checkpoint)
    done = matvit(*build, "-o", tmp_path / "album")
    assert (
        told(done)[-1] == "they have no labels; --labels folders takes the names of their top-level folders"
    )
    assert matvit(*build, "-o", tmp_path / "classes", "--labels", "folders").code == 0
    picture("red", 70).save(photos / "blue" / "new.png")
    for index, classes in (("album", []), ("classes", ["blue", "red"])):
        assert matvit("index", "add", photos, "-i", tmp_path / index).code == 0  # as the index has it
        assert Index.open(tmp_path / index).manifest.classes == classes
        assert len(Index.open(tmp_path / index)) == 18


def test_nothing_new_changes_nothing(matvit: Callable, photos: Path, out: Path) -> None:
    before = (out / "manifest.json").read_bytes()
    for name in (photos, f"{photos}/", photos / "red", photos / "red" / "01.png"):
        done = matvit("index", "add", name, "-i", out)
        assert (done.code, done.out) == (0, "")
        count = {"photos": 16, "red": 8, "01.png": 1}[Path(name).name]
        assert told(done) == [f"{count} files are as they were", "nothing new"]
    done = matvit("index", "add", photos, "-i", out, "--check-content", "--prune", "--json")
    assert json.loads(done.out) == counts(out, 16)
    assert (out / "manifest.json").read_bytes() == before


def test_a_nightly_run(matvit: Callable, photos: Path, out: Path, corpus: Path) -> None:
    shutil.copytree(corpus / "green", photos / "green")
    picture("checks", 1).save(photos / "red" / "01.png")
    (photos / "red" / "02.png").unlink()
    (photos / "blue" / "new.png").write_bytes(b"broken")
    done = matvit("index", "add", photos, "-i", out, "--json")
    assert done.code == 0
    assert json.loads(done.out) == counts(out, 24, failures=1, new=8, changed=1, not_readable=1)
    assert told(done) == [
        "14 files are as they were",
        "not indexed: blue/new.png: not an image",
        f"8 new, 1 changed, 1 not readable; 24 images now: {out}",
        "1 files are gone: --prune removes their rows",
    ]
    opened = Index.open(out)
    assert (opened.manifest.ntotal, opened.manifest.removed, len(opened)) == (25, 1, 24)
    assert opened.manifest.command.startswith("matvit index add ")
    hit = json.loads(matvit("query", photos / "red" / "01.png", "-i", out, "-k", 1, "--json").out)["hits"][0]
    assert (hit["key"], hit["score"]) == ("red/01.png", pytest.approx(1, abs=2e-3))

    (photos / "blue" / "new.png").unlink()
    done = matvit("index", "add", photos, "-i", out, "--prune", "--json")
    assert told(done) == ["23 files are as they were", "nothing new", "1 rows removed whose files are gone"]
    assert json.loads(done.out)["indexed"] == 23
    assert sorted(paths_of(Index.open(out))) == [str(file) for file in files_of(photos)]
    assert verify(out) == []
    again = matvit("index", "add", photos, "-i", out, "--prune")
    assert told(again) == ["23 files are as they were", "nothing new"]


def test_new_and_gone_at_once(matvit: Callable, photos: Path, out: Path) -> None:
    (photos / "red" / "02.png").rename(photos / "red" / "renamed.png")
    done = matvit("index", "add", photos, "-i", out, "--prune", "--json")
    assert json.loads(done.out) == counts(out, 16, moved=1)
    opened = Index.open(out)
    live = column_of(opened, "key")
    assert ("red/renamed.png" in live, "red/02.png" in live) == (True, False)


def test_a_touched_file_costs_an_embedding_unless_its_bytes_are_compared(
    matvit: Callable, photos: Path, out: Path
) -> None:
    for file in files_of(photos)[:3]:
        later(file)
    compared = matvit("index", "add", photos, "-i", out, "--check-content")
    assert told(compared) == ["16 files are as they were", "nothing new"]
    done = matvit("index", "add", photos, "-i", out)
    assert told(done)[0] == "13 files are as they were"
    assert Index.open(out).manifest.removed == 3


def test_other_bytes_under_the_same_size_and_time(matvit: Callable, photos: Path, out: Path) -> None:
    file = photos / "red" / "01.png"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert told(matvit("index", "add", photos, "-i", out))[-1] == "nothing new"
    assert (
        told(matvit("index", "add", photos, "-i", out, "--check-content"))[0] == "15 files are as they were"
    )


def test_a_second_folder_of_equal_names(matvit: Callable, photos: Path, out: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    (more / "red").mkdir(parents=True)
    picture("red", 70).save(more / "red" / "01.png")
    refused = matvit("index", "add", more, "-i", out, "--key-prefix", "")
    assert refused.code == 2
    assert told(refused)[-1].startswith(
        f"matvit: the key 'red/01.png' is taken by {photos}/red/01.png: choose"
    )
    done = matvit("index", "add", more, "-i", out)
    assert (done.code, told(done)) == (
        0,
        [
            "0 files are as they were",
            f"the key 'red/01.png' is taken by {photos}/red/01.png: "
            f"from now on, keys of {more} begin with more/",
            f"1 new; 17 images now: {out}",
        ],
    )
    picture("red", 71).save(more / "red" / "02.png")
    assert told(matvit("index", "add", more, "-i", out, "--prune"))[1:] == [f"1 new; 18 images now: {out}"]
    assert keys_of(Index.open(out))[-2:] == ["more/red/01.png", "more/red/02.png"]


def test_a_library_that_moved_is_added_without_embedding(
    matvit: Callable, photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.rename(tmp_path / "moved")
    monkeypatch.setattr(Encoder, "embed", None)
    done = matvit("index", "add", tmp_path / "moved", "-i", out, "--prune")
    assert (done.code, told(done)) == (
        0,
        [
            "0 files are as they were",
            "16 images are known by their bytes, and were not embedded again",
            "16 rows follow files that moved",
            f"16 moved; 16 images now: {out}",
        ],
    )
    assert column_of(Index.open(out), "path") == [str(f) for f in files_of(tmp_path / "moved")]


def test_shards_of_one_name(matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    for number, place in enumerate("ab"):
        (tmp_path / place).mkdir()
        shard_of(tmp_path / place / "00000.tar", files_of(corpus)[4 * number : 4 * number + 4])
    done = matvit("index", "build", tmp_path / "{a,b}" / "00000.tar", "-m", checkpoint, "-o", tmp_path / "i")
    assert (done.code, told(done)) == (
        0,
        [
            "some shards have one file name: keys begin with their folders, as a/00000.tar:",
            f"8 images indexed, 0 not readable: {tmp_path}/i",
        ],
    )
    assert {key.partition(":")[0] for key in keys_of(Index.open(tmp_path / "i"))} == {
        "a/00000.tar",
        "b/00000.tar",
    }


def test_shards_are_added_and_replaced(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    files, shards, out = files_of(corpus), tmp_path / "shards", tmp_path / "i"
    shards.mkdir()
    shard_of(shards / "a.tar", files[:5])
    shard_of(shards / "b.tar", files[5:10])
    assert matvit("index", "build", shards, "-m", checkpoint, "-o", out).code == 0
    shard_of(shards / "b.tar", files[5:8])
    shard_of(shards / "c.tar", files[20:24])
    done = matvit("index", "add", shards, "-i", out, "--json")
    assert json.loads(done.out)["indexed"] == 12
    assert told(done)[0] == "1 files are as they were"
    (shards / "a.tar").unlink()
    assert json.loads(matvit("index", "add", shards, "-i", out, "--prune", "--json").out)["indexed"] == 7


def test_an_emptied_folder_prunes_nothing(matvit: Callable, photos: Path, out: Path) -> None:
    """It may be a disk that is not mounted."""
    shutil.rmtree(photos)
    photos.mkdir()
    one_line(matvit("index", "add", photos, "-i", out, "--prune"), "no images and no .tar shards")
    assert len(Index.open(out)) == 16


def test_a_folder_that_does_not_answer_is_a_failure_and_keeps_its_rows(
    matvit: Callable, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root enters everything, the disk is made to answer with errors."""
    (photos / "blue" / "00.jpg").unlink()
    with monkeypatch.context() as patch:
        fail_below(photos / "red", errno.EIO, patch)
        done = matvit("index", "add", photos, "-i", out, "--prune", "--json")
    assert done.code == 0
    assert json.loads(done.out) == counts(out, 15, failures=1, not_readable=1)
    reason = "cannot be opened: Input/output error"
    assert told(done)[1:] == [
        f"not indexed: red: {reason}",
        f"1 not readable; 16 images now: {out}",
        f"8 files may be gone or not, and keep their rows: 8 {reason}",
        "1 rows removed whose files are gone",
    ]
    assert told(matvit("index", "add", photos, "-i", out, "--prune")) == [
        "15 files are as they were",
        "nothing new",
    ]


def test_a_disk_within_a_folder_that_is_not_mounted_prunes_nothing(
    matvit: Callable, photos: Path, out: Path
) -> None:
    shutil.rmtree(photos / "red")
    (photos / "red").mkdir()
    done = matvit("index", "add", photos, "-i", out, "--prune")
    assert told(done) == [
        "8 files are as they were",
        "nothing new",
        f"8 files may be gone or not, and keep their rows: 8 {photos}/red is empty, as where a disk is not "
        "mounted",
    ]
    assert len(Index.open(out)) == 16
    (photos / "red").rmdir()
    done = matvit("index", "add", photos, "-i", out, "--prune")
    assert told(done)[-1] == "8 rows removed whose files are gone"


# --- exclude ---


def test_what_is_excluded_is_remembered(
    matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    build = ("index", "build", photos, "-m", checkpoint, "-o", out)
    done = matvit(*build, "--exclude", "blue/", "--exclude", "*.jpg")
    assert done.code == 0, done.err
    assert "3 files and folders are excluded" in told(done)
    assert sorted(keys_of(Index.open(out))) == [f"red/{n:02}.png" for n in range(8) if n % 4]
    assert (
        json.loads(matvit("index", "info", "-i", out, "--json").out)["excluded"] == f"{photos}: blue/, *.jpg"
    )

    (tmp_path / "link").symlink_to("photos")
    (photos / "blue" / "new.png").write_bytes((photos / "blue" / "01.png").read_bytes())
    for name in (photos, f"{photos}/", tmp_path / "link"):
        assert told(matvit("index", "add", name, "-i", out))[-1] == "nothing new"
    (photos / "red" / "new.jpg").write_bytes(b"broken")
    (photos / "red" / "new.png").write_bytes((photos / "red" / "01.png").read_bytes())
    done = matvit("index", "add", photos, "-i", out, "--json")
    assert json.loads(done.out) == counts(out, 7, new=1)

    # More of them, with nothing new: also remembered, and --prune removes what came in before.
    done = matvit("index", "add", photos, "-i", out, "--exclude", "0[1-3].png")
    assert told(done)[-2:] == ["nothing new", "3 files are excluded: --prune removes their rows"]
    assert Index.open(out).manifest.excludes == {str(photos): ["blue/", "*.jpg", "0[1-3].png"]}
    assert verify(out) == []
    done = matvit("index", "add", photos, "-i", out, "--prune")
    assert told(done)[-1] == "3 rows removed whose files are excluded"
    assert sorted(live_keys(out)) == ["red/05.png", "red/06.png", "red/07.png", "red/new.png"]
    done = matvit("index", "add", photos, "-i", out, "--exclude", "!01.png", "--json")
    assert json.loads(done.out)["indexed"] == 5, "a glob can be taken back"

    for command in (
        ("merge", out, "-o", tmp_path / "all"),
        ("remove", "red/05.png", "-i", out),
        ("compact", "-i", out),
    ):
        assert matvit("index", *command).code == 0
    for index in (out, tmp_path / "all"):
        assert Index.open(index).manifest.excludes[str(photos)] == ["blue/", "*.jpg", "0[1-3].png", "!01.png"]


def test_rows_that_a_list_brought_are_not_pruned_where_a_folder_excludes_them(
    matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out, files = tmp_path / "i", photos / "l.txt"
    add = ("index", "add", photos, "-i", out, "--prune")
    assert matvit("index", "build", photos, "-m", checkpoint, "-o", out, "--exclude", "blue").code == 0
    files.write_text("blue/01.png\nblue/02.png")
    assert matvit("index", "add", files, "-i", out).code == 0
    before = sorted(live_keys(out))
    assert told(matvit(*add)) == ["8 files are as they were", "nothing new"]
    files.write_text("blue/01.png")
    assert told(matvit(*add))[-1] == "1 rows removed whose files are excluded"
    files.unlink()
    assert told(matvit(*add))[-1] == (
        f"1 files are excluded, but {files} may name them and cannot be read: their rows stay"
    )
    assert sorted(live_keys(out)) == [key for key in before if key != "blue/02.png"]


def test_rows_of_a_storage_s_own_folders_go(matvit: Callable, photos: Path, out: Path) -> None:
    """As indexes have that were made before those were passed over."""
    (photos / "red").rename(photos / "@eaDir")
    index = Index.open(out)

    def known(*columns: str) -> Known:
        rows = index.entries(["key", "path"]).to_pydict()
        for name in columns:
            rows[name] = [text.replace("red/", "@eaDir/") for text in rows[name]]
        there = SimpleNamespace(
            entries=lambda _: pa.table(rows), manifest=index.manifest, kept_out=index.kept_out
        )
        return Known(cast("Index", there))

    source = open_source(photos)
    assert len(known("path").excluded(source)) == 0, "their keys are those of another source"
    assert len(known("path", "key").excluded(source)) == 8


def test_the_corpus_of_an_evaluation_is_what_was_not_excluded(
    matvit: Callable, photos: Path, checkpoint: Path, queries: Path, tmp_path: Path
) -> None:
    build = ("index", "build", photos, "-m", checkpoint, "-o", tmp_path / "i", "--exclude", "*.jpg")
    assert matvit(*build).code == 0
    ask = (
        "evaluate",
        queries,
        "-i",
        tmp_path / "i",
        "--budget",
        "S",
        "--same-encoder",
        "--raw-pixels",
        "--json",
    )
    done = matvit(*ask)
    assert done.code == 0, done.err
    assert "not measured" not in done.err


@pytest.mark.parametrize("glob", ["", "!", "["])
def test_what_is_no_glob(matvit: Callable, photos: Path, out: Path, checkpoint: Path, glob: str) -> None:
    message = "write it as in a .gitignore"
    one_line(
        matvit("index", "build", photos, "-m", checkpoint, "-o", out.with_name("j"), "--exclude", glob),
        message,
    )
    one_line(matvit("index", "add", photos, "-i", out, "--exclude", glob), message)
    one_line(matvit("index", "add", photos / "red/01.png", "-i", out, "--exclude", "a"), "is for folders")


def test_another_model_adds_nothing(
    matvit: Callable, photos: Path, out: Path, other_checkpoint: Path, corpus: Path
) -> None:
    done = matvit("index", "add", corpus / "green", "-i", out, "-m", other_checkpoint)
    assert done.code == 2
    assert "this index needs matvit_tiny_patch16_224" in told(done)[-1]
    assert len(told(done)) == 2
    assert len(Index.open(out)) == 16


def test_the_index_s_own_model_may_have_moved(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    moved, out = shutil.copytree(checkpoint, tmp_path / "model"), tmp_path / "i"
    assert matvit("index", "build", corpus / "red", "-m", moved, "-o", out).code == 0
    moved.rename(tmp_path / "elsewhere")
    done = matvit("index", "add", corpus, "-i", out)
    assert done.code == 2
    assert f"the model of {out} is no longer at {moved}: say with -m where it is" in told(done)[-1]
    assert matvit("index", "add", corpus, "-i", out, "-m", tmp_path / "elsewhere").code == 0
    assert len(Index.open(out)) == 40


@pytest.mark.parametrize(
    "command, message, code",
    [
        ("add {photos} -i {tmp}/nowhere", "there is no index at", 1),
        ("add {tmp}/nowhere -i {out}", "no such file or folder", 2),
        ("add {tmp}/l.txt -i {out}", "pipe: is not read", 2),
        ("add pipe:echo.tar -i {out}", "pipe: is not read", 2),
        ("build {photos} -m {model} -o {out}", "exists: choose another directory", 2),
        ("build {photos} -m {tmp}/nowhere -o {tmp}/new", "nowhere", 2),
        (
            "build {photos} -m {model} -o {tmp}/new --factory nonsense",
            "FAISS refuses index kind 'nonsense'",
            2,
        ),
        ("build {photos} -m {model} -o {tmp}/new --factory IDMap,Flat", "numbers vectors itself", 2),
        ("build {photos} -m {model} -o {tmp}/new --factory IVF0,Flat", "too small", 2),
        ("build {photos} -m {model} -o {tmp}/new --factory PQ7", "FAISS refuses index kind 'PQ7'", 2),
        ("build {photos} -m {model} -o {tmp}/new --max-memory many", "--max-memory many: write 4G", 2),
        ("build {photos} -m {model} -o {tmp}/new --max-memory -1", "--max-memory -1: write 4G", 2),
        ("build {photos} -m {model} -o {tmp}/new --max-memory 1e400", "--max-memory 1e400: write 4G", 2),
        ("build {photos} -m {model} -o {tmp}/new --rerank -1", "--rerank", 2),
        ("build {photos} -m {model} -o {tmp}/new --key-prefix ../", "leads out of its folder", 2),
        ("add {photos} -i {out} --key-prefix /", "keys are relative", 2),
        ("add {photos} -i {out} --key-prefix x.tar:", "a colon ends the name of a shard", 2),
        ("build {photos} -m {model} -o {tmp}/new --max-query-ms -1", "--max-query-ms", 2),
        ("build {photos} -m {model} -o {tmp}/new --recall 1.5", "--recall", 2),
        ("build {photos} -m {model} -o {tmp}/new --batch-size 0", "--batch-size", 2),
        ("build {photos} -m {model} -o {tmp}/new --device cuda:99", "cuda:99", 2),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    matvit: Callable,
    photos: Path,
    out: Path,
    checkpoint: Path,
    tmp_path: Path,
    command: str,
    message: str,
    code: int,
) -> None:
    (tmp_path / "l.txt").write_text("photos/red/01.png\npipe:touch marker\n")
    before = (out / "manifest.json").read_bytes()
    places = {"photos": photos, "out": out, "model": checkpoint, "tmp": tmp_path}
    one_line(matvit("index", *(word.format(**places) for word in command.split())), message, code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "l.txt", "photos"]
    assert (out / "manifest.json").read_bytes() == before


# --- kinds ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--factory", "IVF4,Flat"), "needs at least 156 vectors to train and there are 16"),
        (("--factory", "IVF4,PQ8"), "needs at least 9984 vectors to train and there are 16"),
        (("--max-memory", "1K"), "no index of 16 vectors of length 32 fits into"),
        (
            ("--factory", "HNSW16", "--max-memory", "2K"),
            "allowed: allow more, or choose a smaller kind",
        ),
        (("--max-query-ms", "0"), "no index answers within 0 ms a query"),
    ],
)
def test_a_kind_that_does_not_fit_costs_no_second_embedding(
    matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    command = ("index", "build", photos, "-m", checkpoint, "-o", tmp_path / "new")
    done = matvit(*command, *arguments)
    assert (done.code, done.out, len(told(done))) == (2, "", 1)
    assert message in told(done)[0]
    assert not (tmp_path / "new").exists()
    done = matvit(*command, "--factory", "HNSW8", "--rerank", "10")
    assert done.code == 0
    assert "16 images were embedded before this run was interrupted, and were not repeated" in done.err
    kind = Index.open(tmp_path / "new").manifest.kind
    assert (kind.factory, kind.rerank) == ("HNSW8", 10)


@pytest.fixture(scope="module")
def many(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 vectors: enough for four lists and product quantizers of four bits."""
    place = tmp_path_factory.mktemp("many")
    (place / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (640, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(place / "images" / f"{number:03}.bmp")
    build_index(open_source(place / "images"), encoder, place / "i", workers=0)
    return place


@pytest.mark.parametrize(
    "factory, rerank, recall",
    [
        ("Flat", 0, 1),
        ("HNSW16", 0, 0.95),
        ("IVF4,Flat", 0, 0.95),
        ("IVF4,SQ8", 100, 0.95),
        ("IVF4,PQ8x4", 100, 0.3),
    ],
)
def test_kinds_of_an_index(
    matvit: Callable, many: Path, tmp_path: Path, factory: str, rerank: int, recall: float
) -> None:
    out = tmp_path / "i"
    done = matvit("index", "merge", many / "i", "-o", out, "--factory", factory)
    assert (done.code, told(done)) == (0, [f"640 rows: {out}"])
    facts = json.loads(matvit("index", "info", "-i", out, "--json").out)
    assert (facts["kind"], facts["rerank"]) == (factory, rerank)
    assert 1 >= facts["recall"] >= recall
    assert facts["query ms"] > 0
    done = matvit("query", many / "images" / "007.bmp", "-i", out, "-k", 3, "--json")
    record = json.loads(done.out)
    assert record["searched"] == factory
    assert (record["hits"][0]["key"], len(record["hits"])) == ("007.bmp", 3)
    assert verify(out) == []


def test_a_build_says_what_an_approximate_kind_finds(
    matvit: Callable, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    done = matvit("index", "build", photos, "-m", checkpoint, "-o", out, "--factory", "IVF1,PQ8x4")
    assert done.code == 2, "too few to train"
    done = matvit(
        "index", "build", photos, "-m", checkpoint, "-o", out, "--factory", "PCA1,SQ4", "--rerank", 0
    )
    recall = Index.open(out).manifest.kind.recall
    assert recall < 1, "sixteen places on a line are too few for 16 images"
    assert told(done)[-1] == f"PCA1,SQ4 finds {recall:.1%} of the true 10 nearest"


# --- one writer at a time ---


@pytest.mark.parametrize(
    "command",
    [
        "build {photos} -m {model} -o {tmp}/new",
        "add {photos} -i {out}",
        "remove red/01.png -i {out}",
        "compact -i {out}",
        "merge {out} -o {tmp}/new",
        "relocate {photos} {photos} -i {out}",
    ],
)
def test_a_second_writer_is_refused(
    matvit: Callable, photos: Path, out: Path, checkpoint: Path, tmp_path: Path, command: str
) -> None:
    (photos / "red" / "new.png").write_bytes((photos / "red" / "01.png").read_bytes())
    before = (out / "manifest.json").read_bytes()
    places = {"photos": photos, "out": out, "model": checkpoint, "tmp": tmp_path}
    with Staging(out, replaces=True), Staging(tmp_path / "new"):
        done = matvit("index", *(word.format(**places) for word in command.split()))
        assert (done.code, done.out) == (1, "")
        assert told(done)[-1].startswith("matvit: another process is writing in ")
        assert len(told(done)) == (2 if command.startswith("add") else 1)
        asked = matvit("query", photos / "red" / "01.png", "-i", out, "-k", 1, "--json")
        assert asked.code == 0, "reading goes on"
    assert (out / "manifest.json").read_bytes() == before
    assert matvit("index", *(word.format(**places) for word in command.split())).code == 0


# --- hostile sources ---


def test_a_hostile_corpus_does_no_harm(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "here"
    (place / "shards").mkdir(parents=True)
    monkeypatch.chdir(place)
    image = files_of(corpus)[1].read_bytes()
    (tmp_path / "secret.png").write_bytes(image)
    with tarfile.open(place / "shards" / "x.tar", "w") as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, target
            tar.addfile(info, io.BytesIO(data))

        add("../up.png", image)
        add(f"{tmp_path}/absolute.png", image)
        add("soft.png", kind=tarfile.SYMTYPE, target=str(tmp_path / "secret.png"))
        add("hard.png", kind=tarfile.LNKTYPE, target="../secret.png")
        add("null.png", kind=tarfile.CHRTYPE)
        add("disk.png", kind=tarfile.BLKTYPE)
        add("pipe.png", kind=tarfile.FIFOTYPE)
        add("$(touch marker).png", image)
        add("a\nb\x1b[31m.png", b"broken")
    before, sheet = files_of(tmp_path), tmp_path / "sheet.html"
    done = matvit("index", "build", "shards", "-m", checkpoint, "-o", tmp_path / "i")
    assert done.code == 0
    reason = "png member: a link or a device, not a file"
    assert {
        f["key"]: f["reason"] for f in read_failures(tmp_path / "i" / "failures.parquet").to_pylist()
    } == {
        **{f"x.tar:{stem}": reason for stem in ("soft", "hard", "null", "disk", "pipe")},
        "x.tar:a\nb\x1b[31m": "not an image",
    }
    assert "not indexed: x.tar:a\\nb\\x1b[31m: not an image" in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("images embedded")]
    assert len(lines) == 7  # Where it takes long, progress is told as well.
    opened = Index.open(tmp_path / "i")
    assert keys_of(opened) == ["x.tar:../up", f"x.tar:{tmp_path}/absolute", "x.tar:$(touch marker)"]
    for command in (
        ("query", "--key", "x.tar:../up", "-i", tmp_path / "i", "--sheet", sheet, "--paths"),
        ("index", "verify", "-i", tmp_path / "i", "--rows", 10),
        ("index", "add", "shards", "-i", tmp_path / "i", "--check-content", "--prune"),
        ("index", "export", "-i", tmp_path / "i", "-o", tmp_path / "e"),
    ):
        assert matvit(*command).code == 0, command
    sheet.unlink()
    for made in ("i", "e"):
        shutil.rmtree(tmp_path / made)
    assert files_of(tmp_path) == before


def test_a_source_called_like_a_command_runs_nothing(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build = ("-m", checkpoint, "-o", tmp_path / "i")
    for scheme in ("pipe:touch marker;", "PIPE:touch marker|", "https://127.0.0.1:9/", "file:"):
        for name in ("x.tar", "l.txt", "a.png", "folder"):
            done = matvit("index", "build", f"{scheme}{name}", *build)
            one_line(done, " is not read; understood are a folder")
    for text in ("pipe:touch marker", "https://127.0.0.1:9/a.png", "file:///etc/passwd"):
        (tmp_path / "l.lst").write_text(f"{files_of(corpus)[0]}\n{text}\n")
        done = matvit("index", "build", tmp_path / "l.lst", *build)
        one_line(done, " is not read; understood are a folder")
    assert list((tmp_path / "here").iterdir()) == []
    assert not (tmp_path / "i").exists()
