"""Writes checkpoints, exports, elastic encoders and runs, and kills that, for `test_kills.py`.

slow_kills.py FOLDER WHAT:STEP...   kills it before every STEP-th of its file operations; prints how often
"""

import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

# Before the first fork, to pay for it once.
import faiss  # noqa: F401
import pytest
import torch
from kills import KILLED, die_before, every_kill, in_child, start, wait
from small_index import build, bytes_of, rows_of
from small_world import random_matvit, write_folder

import matvit
import matvit.refitting.distillation
from cli.main import main
from indexes import Index, IndexExistsError
from indexes.directory.export import export
from matvit.errors import BusyError
from matvit.training.train import Execution, Hooks, train
from matvit.weights.checkpoint import notes_of, weights_sha256
from retrieval.sources.labelled import open_labelled

BUSY = 3 << 8
"""Wait status of a process that was refused."""
RECIPE = """
architecture = "matvit_tiny_patch16_224"
epochs = 2
batch_size = 8
[model]
img_size = 8
patch_size = 4
embed_dim = 16
depth = 2
num_heads = 2
[optim]
lr = 3e-3
"""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- matvit.save over an existing checkpoint ---


def kill_save(folder: Path, step: int, *, swaps: bool) -> int:
    old, new = (random_matvit(seed, embed_dim=16, depth=1) for seed in (0, 1))
    both = [(weights_sha256(model), {"classes": [name]}) for model, name in ((old, "old"), (new, "new"))]

    def prepare(case: Path) -> None:
        matvit.save(old, case / "out", classes=["old"])

    def save(case: Path) -> None:
        if not swaps:
            matvit.files.atomic.exchange = lambda *_: False
        matvit.save(new, case / "out", classes=["new"])

    def check(case: Path, _: int) -> None:
        out = case / "out"
        assert out.is_dir() or not swaps
        assert (weights_sha256(matvit.load(out)), notes_of(out)) in both
        save(case)
        assert (weights_sha256(matvit.load(out)), notes_of(out)) == both[1]
        assert names(case) == ["out"]

    return every_kill(folder, prepare, save, check, step=step)


# --- index export ---


def kill_export(folder: Path, step: int) -> int:
    index = build(folder / "x.index", rows_of("a", 3, label="cat"), rows_of("b", 2))
    assert in_child(lambda: export(Index.open(index), folder / "wanted")) == 0
    wanted = bytes_of(folder / "wanted")

    def run(case: Path) -> None:
        export(Index.open(index), case / "out")

    def check(case: Path, _: int) -> None:
        there = (case / "out").exists()
        assert not there or bytes_of(case / "out") == wanted
        try:
            run(case)
        except IndexExistsError:
            assert there
        assert bytes_of(case / "out") == wanted
        assert names(case) == ["out"]

    return every_kill(folder, lambda _: None, run, check, step=step)


# --- matvit elasticize, with lessons, over an elastic encoder ---


def kill_elasticize(folder: Path, step: int) -> int:
    write_folder(folder / "images", 3)
    matvit.save(random_matvit(0, depth=2), folder / "model")
    matvit.refitting.distillation.SAVE_SECONDS = 0

    def elasticize(case: Path, epochs: int = 2) -> None:
        command = f"elasticize {folder}/images -m {folder}/model -o {case}/out --limit 4 --check 4"
        sys.argv = ["matvit", *command.split(), "--teach", "8", "--epochs", str(epochs), "--workers", "0"]
        with (
            Path(os.devnull).open("w") as nothing,
            redirect_stdout(nothing),
            redirect_stderr(nothing),
            pytest.raises(SystemExit) as stop,
        ):
            main()
        assert not stop.value.code

    made = {}
    for epochs in (1, 2):
        case = folder / "case"
        assert in_child(partial(elasticize, case, epochs)) == 0
        made[epochs] = bytes_of(case / "out")
        shutil.move(case / "out", folder / f"after {epochs}")
        case.rmdir()
    assert {"report/report.csv", "report/report.png", "report/command.txt"} <= made[1].keys()
    learnt = folder / "learnt"

    def prepare(case: Path) -> None:
        shutil.copytree(folder / "after 1", case / "out")

    def check(case: Path, _: int) -> None:
        out, kept = case / "out", case / "out.partial"
        found = bytes_of(out)
        assert found in made.values()
        # What was learnt is there from its first save on, until what it is for is there.
        if names(kept) == ["state.json", "state.safetensors"] if kept.exists() else False:
            learnt.touch()
        elif learnt.exists():
            assert found == made[2]
        elasticize(case)
        assert bytes_of(out) == made[2]
        assert names(case) == ["out"]

    return every_kill(folder, prepare, elasticize, check, step=step)


# --- train: of two at once, the first is killed ---


def kill_train(folder: Path, step: int) -> int:
    (folder / "recipe.toml").write_text(RECIPE)
    images = open_labelled(write_folder(folder / "images", 4), "RGB")

    def run(out: Path) -> None:
        try:
            train(
                folder / "recipe.toml",
                images,
                out,
                execution=Execution(save_minutes=0, log_every=1),
                hooks=Hooks(evaluate=lambda _: {"top1": 0.5}),
                resume=True,
            )
        except BusyError:
            os._exit(BUSY >> 8)

    def killed(out: Path, operation: int) -> None:
        die_before(operation, out.parent)
        run(out)

    def result(out: Path) -> dict[str, bytes]:
        assert names(out) == ["best", "checkpoint", "config.toml", "last", "metrics.jsonl"]
        found = bytes_of(out)
        for clock in ("metrics.jsonl", "last/state.json"):
            del found[clock]
        losses = [line.split(b'"loss/')[0] for line in (out / "metrics.jsonl").read_bytes().splitlines()]
        return found | {"losses": b"\n".join(losses)}

    def check(out: Path) -> None:
        run(out)
        assert result(out) == result(folder / "undisturbed")

    assert in_child(lambda: run(folder / "undisturbed")) == 0
    kills = refused = 0
    for operation in itertools.count(0, step):
        case = folder / "case"
        case.mkdir()
        first = start(partial(killed, case / "run", operation))
        while not (case / "run" / ".matvit-lock").exists() and os.waitid(os.P_PID, first, _ENDED) is None:
            time.sleep(0.0005)
        second = start(partial(run, case / "run"))
        status, other = wait(first), wait(second)
        assert status in (0, KILLED), status
        assert other in (0, BUSY), other
        refused += other == BUSY
        assert in_child(partial(check, case / "run")) == 0, f"after a kill before operation {operation}"
        shutil.rmtree(case)
        if status == 0:
            break
        kills += 1
    assert refused > kills / 4, "the first was at work when the second came"
    return kills


_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
WORK: dict[str, Callable[[Path, int], int]] = {
    "save": partial(kill_save, swaps=True),
    "save-without-swap": partial(kill_save, swaps=False),
    "export": kill_export,
    "elasticize": kill_elasticize,
    "train": kill_train,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[2:]:
        what, _, every = argument.partition(":")
        place = Path(sys.argv[1]) / what
        place.mkdir()
        print(WORK[what](place, int(every)), flush=True)
