"""Builds an index slowly and kills the build again and again, for `test_build_crash.py`.

slow_build.py SHARDS MODEL OUT KILLS [two]   kills it at so many moments and continues it; prints how many
                                             parts there were each time

With `two`, two processes share the work, as under torchrun: one of them is killed, and then the other, which
is what torchrun does when it has lost one.
"""

import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss  # noqa: F401  (imported before the first fork, to pay for it once)
import torch

from indexes import verify
from matvit.runtime.processes import joined
from retrieval import Encoder, build_index, open_source

FILE_OPERATIONS = {"open", "os.rename", "os.link", "os.mkdir", "os.remove"}
PAUSE_S = 0.0015


def build_slowly(shards: Path, encoder: Encoder, out: Path, workers: int) -> None:
    """Pause before each operation on a file beside `out`, so that no moment is too short to be hit."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in FILE_OPERATIONS and str(arguments[0]).startswith(str(out.parent)):
            time.sleep(PAUSE_S)

    sys.addaudithook(hook)
    with joined("cpu") as (processes, _):
        build_index(open_source(shards), encoder, out, batch_size=2, workers=workers, processes=processes)


def start(work: Callable[[], None], rank: int, world: int, port: int) -> int:
    """Fork a process that does the work as one of several."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if world > 1:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def parts_done(out: Path) -> int:
    return len(list((out.parent / f"{out.name}.partial" / "parts").glob("part-*.parquet")))


def contents(out: Path) -> dict[str, bytes]:
    assert verify(out) == []
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    del files["manifest.json"]  # holds the time
    return files


def kill_again_and_again(shards: Path, encoder: Encoder, out: Path, kills: int, world: int) -> None:
    count = len(list(shards.iterdir()))
    whole: list[dict[str, bytes]] = []
    killed_at: list[int] = []
    while len(killed_at) < kills or not out.exists():
        if out.exists():  # sooner than its killer
            whole.append(contents(out))
            shutil.rmtree(out)
        # Processes that decode outlive the one that is killed by some seconds.
        workers = random.choice([0, 0, 1]) if world == 1 else 0
        work, port = partial(build_slowly, shards, encoder, out, workers), free_port()
        children = [start(work, rank, world, port) for rank in range(world)]
        if len(killed_at) < kills:
            # A third of the kills come when all is embedded and the index is put together.
            sealing = len(killed_at) >= kills * 2 // 3
            goal = count if sealing else min(count - 1, parts_done(out) + random.randint(0, 4))
            while parts_done(out) < goal and not any(map(has_ended, children)):
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.15 if sealing else 0.02))
            if not out.exists() and not any(map(has_ended, children)):
                killed_at.append(parts_done(out))
                for child in random.sample(children, world):
                    os.kill(child, signal.SIGKILL)
        statuses = {os.waitpid(child, 0)[1] for child in children}
        assert statuses <= {0, signal.SIGKILL}, statuses
    whole.append(contents(out))
    assert all(files == whole[0] for files in whole)
    print(*killed_at)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, model, target, times, *how = sys.argv[1:]
    loaded = Encoder.open(model, device="cpu", dtype="fp32")
    kill_again_and_again(Path(place), loaded, Path(target), int(times), 2 if how == ["two"] else 1)
