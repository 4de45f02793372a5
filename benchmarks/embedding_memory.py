"""Memory of embedding a large corpus beside that of a small one: it must not grow with the number of images.

    python benchmarks/embedding_memory.py

Writes shards of small JPEGs to a temporary folder, embeds 2,000 and 200,000 of them in a process of its own
with a tiny MatViT, and prints the largest PSS of that process and those that decode for it. PSS counts once
what processes share. Measured until the vectors are there, before FAISS. The bar is a difference of 300 MB.
"""

import argparse
import io
import selectors
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

EMBED = """
import sys
from pathlib import Path
import timm, torch
import matvit
from indexes import IndexWriter
from retrieval.upkeep import embed
from retrieval.encoding.encoder import Encoder
from retrieval.sources.open_images import open_source

torch.manual_seed(0)
model = timm.create_model(
    "matvit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=2, num_classes=0
)
encoder = Encoder(model, device=torch.device("cpu"), dtype=torch.float32)

def stop(*_):
    print("embedded", flush=True)
    sys.stdin.readline()
    raise SystemExit

IndexWriter.commit = stop
embed.build_index(open_source(sys.argv[1]), encoder, sys.argv[2], batch_size=256)
"""


def write_shards(folder: Path, count: int, a_shard: int = 10_000) -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(100):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
        images.append(file.getvalue())
    for start in range(0, count, a_shard):
        with tarfile.open(folder / f"x-{start // a_shard:03}.tar", "w") as tar:
            for number in range(start, min(start + a_shard, count)):
                for suffix, data in (
                    ("jpg", images[number % 100]),
                    ("txt", f"picture number {number}".encode()),
                ):
                    member = tarfile.TarInfo(f"{number:07}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in tree(int(child)))]


def pss_bytes(pid: int) -> int:
    total = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def peak(source: Path, out: Path) -> tuple[int, float]:
    """The largest PSS in bytes, and the seconds that embedding took."""
    process = subprocess.Popen(
        [sys.executable, "-c", EMBED, str(source), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    largest, start = 0, time.monotonic()
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    while not selector.select(timeout=0.5):
        largest = max(largest, pss_bytes(process.pid))
    if process.stdout.readline() != "embedded\n":
        sys.exit("embedding failed")
    largest = max(largest, pss_bytes(process.pid))
    seconds = time.monotonic() - start
    process.communicate("\n")
    return largest, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs=2, default=[2_000, 200_000])
    options = parser.parse_args()
    peaks = []
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "shards"
            source.mkdir()
            write_shards(source, count)
            largest, seconds = peak(source, Path(folder) / "x.index")
        peaks.append(largest)
        print(f"{count:8,} images: {largest / 1e6:7.0f} MB, {seconds:.0f} s", flush=True)
    print(f"difference (bar 300 MB): {(peaks[1] - peaks[0]) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
