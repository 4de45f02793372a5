"""A run directory: what is saved comes back; what is damaged or somebody else's is refused in one line."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from matvit.errors import BusyError, TrainingError
from matvit.training.run_directory import Position, RunDirectory

RECIPE = "a recipe, which nobody parses here\n"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def opened(tmp_path: Path, recipe_file: Path) -> Iterator[Callable[..., RunDirectory]]:
    """Opens the run directory as the trainer does."""
    with ExitStack() as held:

        def opened(*, resume: bool = False) -> RunDirectory:
            run = RunDirectory(tmp_path / "run", recipe_file, resume=resume)
            held.enter_context(run.writing())
            if not run.resumes:
                run.start(Position())
            return run

        yield opened


def visible(run: Path) -> list[str]:
    return sorted(file.name for file in run.iterdir() if not file.name.startswith("."))


def network(seed: int) -> nn.Module:
    """Parameters and a buffer, which a run keeps too."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Counting(torch.optim.SGD):
    """An optimizer whose state is more than tensors."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            state = self.state[parameter]
            count = state.get("count", 0) + 1
            state.update(count=count, rate=count / 7, odd=bool(count % 2), never=None)
            state.setdefault("size", torch.zeros(())).add_(number)
        return result


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01),
    "amsgrad": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, amsgrad=True),
    "momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9),
    "no momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.01),
    "step in the group": lambda net: create_optimizer_v2(net, opt="lamb", lr=0.01),
    "another of these": lambda net: create_optimizer_v2(net, opt="adan", lr=0.01),
    "more than tensors": lambda net: Counting(net.parameters(), lr=0.01),
}


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for step in range(count):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, with the types of everything in it."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_was_saved_comes_back(opened: Callable[..., RunDirectory], name: str) -> None:
    net, average = network(0), network(1)
    optimizer = OPTIMIZERS[name](net)
    steps(net, optimizer, 3)
    progress = Position(
        step=7, sums={"loss": (0.1 + 0.2, 3), "loss/S": (1e-300, 1)}, seconds=1.5, best=0.1, images="abc"
    )
    run = opened()
    run.log({"step": 7}, progress)
    run.save(progress, {"model": net, "average": average}, optimizer)

    net2, average2 = network(2), network(3)
    optimizer2 = OPTIMIZERS[name](net2)
    steps(net2, optimizer2, 1)  # what is there is replaced
    assert opened(resume=True).restore({"model": net2, "average": average2}, optimizer2) == progress
    assert same(net.state_dict(), net2.state_dict())
    assert same(average.state_dict(), average2.state_dict())
    assert same(optimizer.state_dict(), optimizer2.state_dict())
    steps(net, optimizer, 2)
    steps(net2, optimizer2, 2)
    assert same(net.state_dict(), net2.state_dict())
    assert same(optimizer.state_dict(), optimizer2.state_dict())


def test_the_rates_are_those_of_the_recipe(opened: Callable[..., RunDirectory]) -> None:
    net = network(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.5)
    steps(net, optimizer, 1)
    run = opened()
    run.save(Position(), {"model": net}, optimizer)
    other = torch.optim.AdamW(net.parameters(), lr=0.25)
    run.restore({"model": net}, other)
    assert other.param_groups[0]["lr"] == 0.25


def test_an_optimizer_that_cannot_be_kept_is_refused(opened: Callable[..., RunDirectory]) -> None:
    net = network(0)
    optimizer = torch.optim.LBFGS(net.parameters(), history_size=2)
    optimizer.step(lambda: net(torch.ones(8, 3)).square().sum())
    net(torch.randn(8, 3)).square().sum().backward()
    optimizer.state[next(net.parameters())]["history"] = [torch.ones(2)]
    run = opened()
    with pytest.raises(TrainingError, match="an optimizer that keeps a list cannot be resumed"):
        run.save(Position(), {"model": net}, optimizer)
    assert visible(run.path) == ["config.toml"]


def test_a_run_killed_before_its_first_save_starts_over(opened: Callable[..., RunDirectory]) -> None:
    run = opened()
    run.log({"step": 1}, Position())
    net = network(0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    again = opened(resume=True)
    progress = again.restore({"model": net}, torch.optim.AdamW(net.parameters()))
    again.start(progress)
    assert progress == Position()
    assert same(before, net.state_dict())
    assert (run.path / "metrics.jsonl").read_text() == ""


# --- what is refused ---


@pytest.fixture
def saved(opened: Callable[..., RunDirectory]) -> Path:
    """The directory of a run that was saved once."""
    net = network(0)
    optimizer = torch.optim.AdamW(net.parameters())
    steps(net, optimizer, 1)
    run = opened()
    run.save(Position(step=1), {"model": net, "average": network(5)}, optimizer)
    return run.path


def refusal(opened: Callable[..., RunDirectory], modules: Any = None) -> str:
    net = network(1)
    modules = modules or {"model": net, "average": network(2)}
    with pytest.raises(TrainingError) as caught:
        opened(resume=True).restore(modules, torch.optim.AdamW(net.parameters()))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("cannot resume from ")
    assert "run/last: " in message
    assert not message.endswith(": ")
    return message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_truncated_state_is_refused(
    opened: Callable[..., RunDirectory], saved: Path, name: str, share: float
) -> None:
    file = saved / "last" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refusal(opened)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_state_that_is_not_there_or_noise_is_refused(
    opened: Callable[..., RunDirectory], saved: Path, name: str
) -> None:
    (saved / "last" / name).write_bytes(b"\x93\xff noise" * 100)
    refusal(opened)
    (saved / "last" / name).unlink()
    refusal(opened)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "null",
        "{}",
        '{"progress": {}}',
        '{"progress": null, "numbers": {}}',
        '{"progress": {"steps": 3}, "numbers": {}}',
        '{"progress": {"sums": {"loss": 3}}, "numbers": {}}',
        '{"progress": {"sums": 3}, "numbers": {}}',
        '{"progress": {}, "numbers": 3}',
        '{"progress": {}, "numbers": {"optimizer/x/y": 3}}',
        '{"progress": {}, "numbers": {"optimizer/1": 3}}',
        "[" * 100_000,
    ],
)
def test_json_that_is_no_state_is_refused(
    opened: Callable[..., RunDirectory], saved: Path, text: str
) -> None:
    (saved / "last/state.json").write_text(text)
    refusal(opened)


def test_a_state_of_another_shape_is_refused(opened: Callable[..., RunDirectory], saved: Path) -> None:
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    refusal(opened, {"model": other})
    refusal(opened, {"model": network(1), "ghost": network(1)})
    file = saved / "last/state.safetensors"
    tensors = load_file(file)
    save_file({key: t for key, t in tensors.items() if key != "model/0.weight"}, file)
    refusal(opened)


def test_another_recipe_is_refused(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RECIPE + "# a comment\n")
    with pytest.raises(
        TrainingError, match=r"run is a run of another recipe: .*config\.toml differs from .*other"
    ):
        RunDirectory(saved, other, resume=True)
    assert (saved / "config.toml").read_text() == RECIPE


@pytest.mark.parametrize("resume", [False, True])
def test_somebody_elses_directory_is_refused_and_left_alone(
    tmp_path: Path, recipe_file: Path, resume: bool
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(
        TrainingError, match="run is not empty: choose a new run directory, or --resume the run"
    ):
        RunDirectory(tmp_path / "run", recipe_file, resume=resume)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_run_is_not_begun_again_by_accident(saved: Path, recipe_file: Path) -> None:
    with pytest.raises(TrainingError, match="is not empty"):
        RunDirectory(saved, recipe_file, resume=False)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_empty_directory_is_taken(
    tmp_path: Path, recipe_file: Path, resume: bool, there: bool
) -> None:
    place = tmp_path / "deep" / "run"
    if there:
        place.mkdir(parents=True)
    run = RunDirectory(place, recipe_file, resume=resume)
    assert not run.resumes
    with run.writing():
        run.start(Position())
    assert (place / "config.toml").read_text() == RECIPE
    assert [file.name for file in place.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("resume", [False, True])
def test_what_was_killed_before_it_was_a_run_is_no_obstacle(
    tmp_path: Path, recipe_file: Path, resume: bool
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for left in (".matvit-lock", ".matvit-lock-config.toml", ".matvit-new-config.toml"):
        (run / left).write_text("a reci")
    with (opened := RunDirectory(run, recipe_file, resume=resume)).writing():
        opened.start(Position())
    assert {file.name: file.read_text() for file in run.iterdir()} == {"config.toml": RECIPE}


def test_a_file_where_the_state_should_be_is_refused_and_left_alone(
    opened: Callable[..., RunDirectory], saved: Path
) -> None:
    for file in (saved / "last").iterdir():
        file.unlink()
    (saved / "last").rmdir()
    (saved / "last").write_text("mine")
    message = refusal(opened)
    assert message.startswith(f"cannot resume from {saved / 'last'}: ")
    assert "Not a directory" in message
    assert (saved / "last").read_text() == "mine"


# --- one writer, and a recipe that is written once ---


def test_a_second_writer_is_refused_whatever_it_saw_before(tmp_path: Path, recipe_file: Path) -> None:
    """Started in the same instant, both find an empty directory."""
    first, second, resuming = (
        RunDirectory(tmp_path / "run", recipe_file, resume=resume) for resume in (False, False, True)
    )

    def refused() -> None:
        for run in (second, resuming):
            with pytest.raises(BusyError, match=f"another process is writing {tmp_path / 'run'}"):
                run.writing().__enter__()

    with first.writing():
        first.start(Position())
        thread = threading.Thread(target=refused)
        thread.start()
        thread.join()
        assert visible(tmp_path / "run") == ["config.toml"]
    with pytest.raises(TrainingError, match="is not empty"):
        second.writing().__enter__()
    with resuming.writing():
        assert resuming.resumes


def test_the_recipe_is_written_once_and_whole(
    tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = RunDirectory(tmp_path / "run", recipe_file, resume=False), tmp_path / "run" / "config.toml"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk, run.writing():
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.start(Position())
    assert not config.exists()
    with run.writing():
        run.start(Position())
    before = config.stat()
    config.chmod(0o444)
    monkeypatch.setattr(os, "fsync", full)
    resumed = RunDirectory(tmp_path / "run", recipe_file, resume=True)
    with resumed.writing():
        resumed.start(Position())
    after = config.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert config.read_text() == RECIPE


# --- after a kill ---


def test_lines_that_were_logged_after_the_last_save_are_cut(opened: Callable[..., RunDirectory]) -> None:
    net = network(0)
    optimizer = torch.optim.AdamW(net.parameters())
    run, progress = opened(), Position()
    for step in (1, 2):
        progress.step = step
        run.log({"step": step, "name": "größer"}, progress)
    run.save(progress, {"model": net}, optimizer)
    run.log({"step": 3}, progress)
    with (run.path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')  # the disk was full, or the power went
    again = opened(resume=True)
    progress = again.restore({"model": net}, optimizer)
    again.start(progress)
    again.log({"step": 3}, progress)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert progress.metrics_bytes == (run.path / "metrics.jsonl").stat().st_size


def test_lines_that_a_crash_lost_are_not_made_up_with_zeros(opened: Callable[..., RunDirectory]) -> None:
    run, progress = opened(), Position()
    for step in (1, 2):
        run.log({"step": step}, progress)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text(lines[0])
    run.start(progress)
    run.log({"step": 3}, progress)
    assert (run.path / "metrics.jsonl").read_text() == lines[0] + '{"step": 3}\n'


@pytest.mark.parametrize("left", [0, 5, 11, 12, 13, 23])
def test_a_line_that_a_crash_cut_is_not_joined_with_the_next(
    opened: Callable[..., RunDirectory], left: int
) -> None:
    run, progress = opened(), Position()
    for step in (1, 2):
        run.log({"step": step}, progress)
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    run.start(progress)
    kept = b'{"step": 1}\n' if left >= 12 else b""
    assert file.read_bytes() == kept
    assert progress.metrics_bytes == len(kept)
    run.log({"step": 3}, progress)
    assert file.read_bytes() == kept + b'{"step": 3}\n'


def test_leftovers_of_a_killed_writer_are_tidied(opened: Callable[..., RunDirectory], saved: Path) -> None:
    for name in (".matvit-new-last", ".matvit-old-last", ".matvit-new-best"):
        (saved / name).mkdir()
        (saved / name / "model.safetensors").write_text("half of i")
    opened(resume=True)
    assert sorted(p.name for p in saved.iterdir() if p.name != ".matvit-lock") == ["config.toml", "last"]


@pytest.mark.parametrize("name", ["last", "checkpoint", "best"])
def test_a_kill_between_the_two_renames_loses_nothing(
    opened: Callable[..., RunDirectory], saved: Path, name: str
) -> None:
    if name != "last":
        (saved / name).mkdir()
        (saved / name / "model.safetensors").write_text("whole")
    before = {file.name: file.read_bytes() for file in (saved / name).iterdir()}
    (saved / name).rename(saved / f".matvit-old-{name}")
    (saved / f".matvit-new-{name}").mkdir()
    run = opened(resume=True)
    assert {file.name: file.read_bytes() for file in (saved / name).iterdir()} == before
    assert [file.name for file in saved.glob(".*")] == [".matvit-lock"]
    net = network(1)
    progress = run.restore({"model": net, "average": network(2)}, torch.optim.AdamW(net.parameters()))
    assert progress.step == 1


def test_an_epochs_means_are_over_the_steps_that_had_the_measure() -> None:
    progress = Position(seconds=3.0)
    for measures in ({"loss": 1.0, "loss/S": 4.0}, {"loss": 2.0}, {"loss": 6.0, "loss/M": 5.0}):
        progress.add(measures)
    assert progress.close_epoch() == {"loss": 3.0, "loss/M": 5.0, "loss/S": 4.0}
    assert (progress.sums, progress.seconds) == ({}, 0.0)
    progress.add({"loss": 7.0})
    assert progress.close_epoch() == {"loss": 7.0}
