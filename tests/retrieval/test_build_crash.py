"""A build of many shards that is killed, again and again, ends as if nothing had happened."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_world import picture, write_shard

from indexes import Index, verify
from indexes.disk.rows import read_failures
from retrieval import Encoder, build_index, open_source

SCRIPT = Path(__file__).with_name("slow_build.py")
ROOT = Path(__file__).parents[2]
SHARDS = 40


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture("red", number).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty shards of two or three images; here and there a broken image, a cut shard, or no tar at all."""
    place = tmp_path_factory.mktemp("shards") / "shards"
    place.mkdir()
    for i in range(SHARDS):
        members = {f"{n}.png": png(3 * i + n) for n in range(2 + i % 2)} | {"0.cls": b"%d" % (i % 3)}
        members = dict(sorted(members.items()))
        if i % 5 == 1:
            members["1.png"] = b"broken"
        if i % 7 == 3:
            members["9.jpg"] = members["0.png"][:-40]
        shard = write_shard(place / f"x-{i:03}.tar", members)
        if i % 11 == 4:
            # Inside the header of the second image, or inside the image.
            shard.write_bytes(shard.read_bytes()[: 3000 if i % 2 else 3500])
    (place / "x-020.tar").write_bytes(b"no tar")
    (place / "x-021.tar").write_bytes(b"")
    return place


@pytest.fixture
def env() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return os.environ | one | {"PYTHONPATH": path}


@pytest.fixture(scope="module")
def undisturbed(shards: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    count = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, here as in other processes
    out = tmp_path_factory.mktemp("undisturbed") / "x.index"
    build_index(open_source(shards), encoder, out, batch_size=2, workers=0)
    torch.set_num_threads(count)
    assert verify(out) == []
    return out


def contents(out: Path) -> dict[str, bytes]:
    assert verify(out) == []
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    del files["manifest.json"]  # holds the time
    return files


def same(out: Path, undisturbed: Path) -> None:
    found, expected = contents(out), contents(undisturbed)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert {"rows.parquet", "failures.parquet", "vectors/part-00039.npy"} <= found.keys()
    one, other = Index.open(out).manifest, Index.open(undisturbed).manifest
    assert (one.ntotal, one.classes, one.sources, one.encoder) == (
        other.ntotal,
        other.classes,
        other.sources,
        other.encoder,
    )
    assert not out.with_name(f"{out.name}.partial").exists()


def test_what_is_built_undisturbed(undisturbed: Path) -> None:
    failures = {f["key"]: f["reason"] for f in read_failures(undisturbed / "failures.parquet").to_pylist()}
    rows = Index.open(undisturbed).entries().to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) > 60
    assert failures.keys() >= {"x-001.tar:1", "x-003.tar:9", "x-004.tar", "x-020.tar", "x-021.tar"}
    assert {row["key"].partition(":")[0] for row in rows} == {
        f"x-{i:03}.tar" for i in range(SHARDS) if i not in (15, 20, 21, 37)
    }


@pytest.mark.parametrize("kills, how", [("20", []), ("5", ["two"])], ids=["one process", "two processes"])
def test_killed_at_random_moments(
    shards: Path,
    checkpoint: Path,
    undisturbed: Path,
    env: dict[str, str],
    tmp_path: Path,
    kills: str,
    how: list[str],
) -> None:
    out = tmp_path / "x.index"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(shards), str(checkpoint), str(out), kills, *how],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed_at = [int(parts) for parts in done.stdout.split()]
    assert len(killed_at) == int(kills)
    assert len({parts for parts in killed_at if parts < SHARDS}) > int(kills) // 3, (
        "in the midst of embedding"
    )
    same(out, undisturbed)


# --- under torchrun ---


def torchrun(shards: Path, checkpoint: Path, out: Path) -> list[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(port), "-m", "cli.main"]
    command = ["index", "build", str(shards), "-m", str(checkpoint), "-o", str(out), "--workers", "0"]
    return [sys.executable, *launcher, *command, "--batch-size", "2", "--device", "cpu", "--dtype", "fp32"]


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def finished(parts: Path) -> int:
    return len(list(parts.glob("*.parquet")))


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_two_processes_of_torchrun_make_the_index_of_one_though_one_of_them_is_killed(
    shards: Path, checkpoint: Path, undisturbed: Path, env: dict[str, str], tmp_path: Path, kills: int
) -> None:
    out = tmp_path / "x.index"
    parts = tmp_path / "x.index.partial" / "parts"
    for kill in range(kills):
        with subprocess.Popen(
            torchrun(shards, checkpoint, out), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 120
            goal = min(finished(parts) + 1, SHARDS - 1)
            while len(children_of(process.pid)) < 2 or finished(parts) < goal:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            os.kill(children_of(process.pid)[kill % 2], signal.SIGKILL)
            assert process.wait(120) != 0
        assert not out.exists()
        assert kill > 0 or 1 <= finished(parts) < SHARDS

    done = subprocess.run(
        [*torchrun(shards, checkpoint, out), "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "only the first process speaks"
    assert done.stderr.count("images indexed, ") == 1
    same(out, undisturbed)
