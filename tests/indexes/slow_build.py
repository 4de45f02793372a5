"""Builds a small index with pauses, for the tests that kill it.

slow_build.py OUT pause      builds once, pausing in every part
slow_build.py FOLDER every   kills a build before each of its file operations in turn, and continues it
"""

import itertools
import os
import random
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss  # noqa: F401  (imported before the first fork, to pay for it once)
import numpy as np
import pyarrow.parquet  # noqa: F401

from indexes import EncoderIdentity, Index, IndexWriter, verify
from indexes.assembly import Origin

IDENTITY = EncoderIdentity(architecture="a", weights_sha256="b", pooling="c", embed_dim=4, preprocess={})
FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


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
        writer.commit(
            Origin(encoder=IDENTITY, dtype="float32", device="cpu", checkpoint="m", sources=[], command="")
        )


def contents(out: Path) -> dict[str, bytes]:
    assert verify(out) == []
    Index.open(out)
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    del files["manifest.json"]  # holds the time
    return files


def die_before(operation: int, folder: Path) -> None:
    count = itertools.count()
    fsync = os.fsync

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if (
            event in FILE_OPERATIONS
            and str(arguments[0]).startswith(str(folder))
            and next(count) == operation
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    def torn_fsync(descriptor: int) -> None:
        """Lose half of what is not on the disk yet, as a power cut may."""
        if next(count) == operation:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                os.ftruncate(descriptor, status.st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    sys.addaudithook(hook)
    os.fsync = torn_fsync


def in_child(work: Callable[[], None]) -> int:
    """Fork, run `work` in the child, and return its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def every(folder: Path) -> int:
    def killed() -> None:
        die_before(operation, case)
        build(case / "x.index", parts=2, pause_s=0)

    def continued() -> None:
        out = case / "x.index"
        if not out.exists():
            build(out, parts=2, pause_s=0)
        assert contents(out) == contents(folder / "undisturbed.index")

    assert in_child(lambda: build(folder / "undisturbed.index", parts=2, pause_s=0)) == 0
    for operation in itertools.count():
        case = folder / str(operation)
        case.mkdir()
        status = in_child(killed)
        assert in_child(continued) == 0, f"not continued after a kill before operation {operation}"
        if status == 0:
            break
        assert status == signal.SIGKILL
    return operation


if __name__ == "__main__":
    target, mode = Path(sys.argv[1]), sys.argv[2]
    print("ready", flush=True)
    if mode == "every":
        print(every(target))
    else:
        build(target, parts=12, pause_s=float(mode))
