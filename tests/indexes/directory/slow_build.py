"""Builds and changes a small index, for the tests that kill it.

slow_build.py OUT SECONDS                builds once, pausing up to so long in every part
slow_build.py FOLDER CHANGE              kills that before each of its file operations in turn, and repeats it
"""

import os
import random
import shutil
import sys
import time
from pathlib import Path

# Before the first fork, to pay for it once; numpy imports the two when they are first needed.
import faiss  # noqa: F401
import numpy as np
import numpy.ma
import numpy.random
import pyarrow.parquet  # noqa: F401
from kills import every_kill, in_child
from small_index import Row, bytes_of, contents, origin, rows_of
from small_index import build as build_at_once

from indexes import EncoderIdentity, IndexDamagedError, IndexWriter, verify
from indexes.directory import change
from indexes.disk.rows import read_failures
from indexes.disk.staging import restore, staging_of
from indexes.faiss_kinds.search import require_faiss

IDENTITY = EncoderIdentity(architecture="a", weights_sha256="b" * 64, pooling="c", embed_dim=4, preprocess={})

State = tuple[dict[str, tuple[str, str | None, bytes]], list[str]]


def build(out: Path, *, parts: int, pause_s: float) -> None:
    with IndexWriter(out, IDENTITY) as writer:
        writer.plan([(f"part {i}", str(i)) for i in range(parts)])
        for i in range(parts):
            if not writer.is_done(i):
                time.sleep(random.uniform(0, pause_s))
                vectors = np.random.default_rng(i).standard_normal((20, 4))
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                rows = [{"key": f"{i}/{n}", "path": "", "label": str(n % 2)} for n in range(20)]
                writer.write_part(i, vectors, rows, [(f"{i}/bad", "broken")])
        writer.commit(origin(IDENTITY))


def build_once(out: Path) -> None:
    try:
        restore(out)
    except IndexDamagedError:
        build(out, parts=2, pause_s=0)


def add(out: Path) -> None:
    """Replace a file of one row, and add two rows, of which one has failed before."""
    rows = [Row("a:0", "/a", "changed", number=1), Row("a:bad", "/b"), *rows_of("c")]
    build_at_once(out, rows, extends=True, failures=[("c:bad", "broken")])


def add_prefixed(out: Path) -> None:
    """Add two rows whose keys are those of others, and a failure."""
    rows = [Row("a:0", "/c"), *rows_of("d")]
    build_at_once(out, rows, extends=True, failures=[("a:bad", "broken")], key_prefix="p/", source="more")


def relocate(out: Path) -> None:
    """Of a file that moved, the rows follow."""
    now = change.Relocation({"/a": ("/new/a", "")}, ["elsewhere"], {"elsewhere": "p/"})
    change.relocate(out, lambda _: now, command="relocate")


def remove(out: Path) -> None:
    change.remove(out, lambda index: index.matching("key in ('a:1', 'b:0')"), command="remove")


CHANGES = {
    "build": build_once,
    "add": add,
    "add_prefixed": add_prefixed,
    "remove": remove,
    "relocate": relocate,
}


def prepare(out: Path) -> None:
    build_at_once(out, rows_of("a", 2), rows_of("b", 2), failures=[("a:bad", "broken"), ("b:bad", "broken")])


def state_of(out: Path) -> State:
    """What can be found in a whole index, and what could not be embedded."""
    try:
        restore(out)
    except IndexDamagedError:
        return {}, []
    assert verify(out) == []
    return contents(out), sorted(read_failures(out / "failures.parquet")["key"].to_pylist())


def every(folder: Path, name: str) -> int:
    before, after = folder / "before" / "x.index", folder / "after" / "x.index"
    require_faiss()

    def undisturbed() -> None:
        if name != "build":
            prepare(before)
            shutil.copytree(before, after)
        CHANGES[name](after)

    def copy_before(case: Path) -> None:
        if before.exists():
            shutil.copytree(before, case / "x.index")

    def repeated(case: Path, _: int) -> None:
        os.fsync = lambda _: None
        out, old, new = case / "x.index", state_of(before), state_of(after)
        assert old != new
        was_new = state_of(out) == new
        assert was_new or state_of(out) == old
        CHANGES[name](out)
        assert state_of(out) == new
        if name.startswith("add") and was_new:  # The rows of the first time are there, removed.
            return
        repeated, wanted = bytes_of(out), bytes_of(after)
        del repeated["manifest.json"], wanted["manifest.json"]  # they hold the time
        assert repeated == wanted
        if not was_new:
            assert not staging_of(out).exists()

    assert in_child(undisturbed) == 0
    return every_kill(folder, copy_before, lambda case: CHANGES[name](case / "x.index"), repeated)


if __name__ == "__main__":
    target, mode = Path(sys.argv[1]), sys.argv[2]
    print("ready", flush=True)
    if mode in CHANGES:
        print(every(target, mode))
    else:
        build(target, parts=12, pause_s=float(mode))
