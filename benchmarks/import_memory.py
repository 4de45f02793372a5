"""Memory that importing a published-size Scenic checkpoint takes, as a multiple of the parameters' own size.

    python benchmarks/import_memory.py

Writes a ViT-B/16 `TrainState` with random parameters and the two moments of Adam (about 1 GB) to a temporary
folder, converts it in a process of its own, and prints the peak memory of that process above what it had with
every library imported. The bar is 2.0.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgpack
import numpy as np

from matvit.weights.scenic.layout import Layout

BASE = Layout(
    width=768,
    depth=12,
    heads=12,
    hidden=3072,
    patch=16,
    channels=3,
    grid=14,
    classes=1000,
    class_token=True,
)
LARGE = Layout(
    width=1024,
    depth=24,
    heads=16,
    hidden=4096,
    patch=16,
    channels=3,
    grid=24,
    classes=1000,
    class_token=True,
)

CONVERT = """
import json, resource, sys, time
from pathlib import Path
import numpy, timm, torch
import matvit.weights.scenic.convert
import safetensors.torch

def now():
    fields = Path("/proc/self/status").read_text().split("\\n")
    return {f.split(":")[0]: int(f.split()[1]) * 1024 for f in fields if f.startswith(("VmRSS", "VmHWM"))}

timm.create_model("vit_tiny_patch16_224", depth=1)  # What the libraries only load when they are used.
before = now()["VmRSS"]
Path("/proc/self/clear_refs").write_text("5")  # The peak starts again here.
started = time.perf_counter()
matvit.weights.scenic.convert.convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps({"seconds": time.perf_counter() - started, "before": before, "peak": now()["VmHWM"]}))
"""


def tree(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """Paths with slashes as nested maps."""
    root: dict[str, object] = {}
    for path, shape in shapes.items():
        *maps, leaf = path.split("/")
        place = root
        for name in maps:
            place = place.setdefault(name, {})  # type: ignore[assignment]
        place[leaf] = shape
    return root


def packed(node: object, rng: np.random.Generator) -> Iterator[bytes]:
    """The msgpack of a tree, array by array, with random numbers for each shape."""
    packer = msgpack.Packer()
    if isinstance(node, dict):
        yield packer.pack_map_header(len(node))
        for name, value in node.items():
            yield packer.pack(name)
            yield from packed(value, rng)
    elif isinstance(node, tuple):
        values = 0.02 * rng.standard_normal(node, dtype=np.float32)
        yield packer.pack(msgpack.ExtType(1, packer.pack((node, "float32", values.tobytes()))))
    else:
        yield packer.pack(node)


def write_train_state(file: BinaryIO, layout: Layout) -> None:
    """A `TrainState` in the order and form in which Scenic writes it; needs the memory of one array."""
    rng = np.random.default_rng(0)
    parameters = tree(layout.shapes())
    state = {
        "opt_state": {"0": {"mu": parameters, "nu": parameters}},
        "params": parameters,
        "global_step": 187_500,
        "model_state": {},
    }
    for piece in packed(state, rng):
        file.write(piece)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="a ViT-L/16 at 384 px: about 3.7 GB")
    layout = LARGE if parser.parse_args().large else BASE
    parameters = 4 * sum(math.prod(shape) for shape in layout.shapes().values())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint_187500"
        with checkpoint.open("wb") as file:
            write_train_state(file, layout)
        size = checkpoint.stat().st_size
        run = subprocess.run(
            [sys.executable, "-c", CONVERT, str(checkpoint), str(Path(folder) / "out")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = json.loads(run.stdout)
    extra = found["peak"] - found["before"]
    print(f"{platform.machine()}, Python {platform.python_version()}, msgpack {msgpack.version}")
    print(f"file            {size / 1e6:8.0f} MB")
    print(f"parameters      {parameters / 1e6:8.0f} MB")
    print(f"libraries       {found['before'] / 1e6:8.0f} MB")
    print(f"peak above them {extra / 1e6:8.0f} MB")
    print(f"ratio           {extra / parameters:8.2f} (bar 2.0)")
    print(f"seconds         {found['seconds']:8.1f}")


if __name__ == "__main__":
    main()
