"""The first steps of an ImageNet recipe on a synthetic set of 1,000 classes: killed once, resumed, measured.

    python benchmarks/imagenet_rehearsal.py b16_in1k
    python benchmarks/imagenet_rehearsal.py l16_in1k_finetune --init --batch-size 2 --save-minutes 3

The recipe is unchanged but for its batch, which is also accumulated in two parts. Images are noise of
ImageNet's usual size, read once from an ImageFolder and once from shards; `--init` starts from a plain
ViT-L/16 of 224 px that is made here, as the recipe does from a pretrained one. Prints seconds a step, losses
and peak memory.
"""

import argparse
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import matvit
from matvit.training import recipe

CLASSES = 1000


def write_images(root: Path) -> None:
    """One JPEG a class, as an ImageFolder and as two shards."""
    noise = np.random.default_rng(0)
    (root / "shards").mkdir()
    with (
        tarfile.open(root / "shards" / "0.tar", "w") as even,
        tarfile.open(root / "shards" / "1.tar", "w") as odd,
    ):
        for label in range(CLASSES):
            data = jpeg(noise)
            folder = root / "folder" / f"n{label:08}"
            folder.mkdir(parents=True)
            (folder / "0.JPEG").write_bytes(data)
            for name, content in ((f"{label}.jpg", data), (f"{label}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                (odd if label % 2 else even).addfile(member, io.BytesIO(content))


def jpeg(noise: np.random.Generator) -> bytes:
    coarse = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((500, 375)).save(buffer, "JPEG")
    return buffer.getvalue()


def lines(run: Path) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def train_until(step: int, command: list[str], run: Path) -> None:
    """Train until a step was logged, then kill."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(line["step"] >= step for line in lines(run)):
        time.sleep(1)
    if process.poll() is not None:
        sys.exit(f"training ended by itself: {process.stderr.read() if process.stderr else ''}")
    process.send_signal(signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save-minutes", type=float, default=0.5, help="less than half of the steps take")
    parser.add_argument("--init", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    text = recipe.find(options.recipe).read_text()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root)
        file = root / f"{options.recipe}.toml"
        file.write_text(re.sub(r"(?m)^batch_size = \d+", f"batch_size = {options.batch_size}", text))
        init = []
        if options.init:
            matvit.save(timm.create_model("vit_large_patch16_224", num_classes=0), root / "plain")
            init = ["--init", str(root / "plain")]
        print(
            f"{options.recipe}, batch {options.batch_size} in 2 parts, {options.device}, "
            f"torch {torch.__version__}, {os.cpu_count()} cores"
        )
        for form in ("folder", "shards"):
            run = root / f"run-{form}"
            command = [sys.executable, "-m", "cli.main", "train", str(file), "--data", str(root / form)]
            command += ["-o", str(run), "--resume", "--workers", "2", "--accumulate", "2", "--log-every", "1"]
            command += ["--save-minutes", str(options.save_minutes), "--device", options.device, *init]
            train_until(options.steps // 2, command, run)
            state = run / "last" / "state.json"
            saved = json.loads(state.read_text())["progress"]["step"] if state.exists() else 0
            train_until(options.steps, command, run)
            kept = lines(run)
            seconds = statistics.median(line["seconds"] for line in kept)
            print(
                f"{form:7}{len(kept)} steps, killed after {options.steps // 2}, resumed from {saved}; "
                f"{seconds:.1f} s a step; loss {kept[0]['loss']:.3f} to {kept[-1]['loss']:.3f}; "
                f"peak memory {max(line['peak_memory_mb'] for line in kept) / 1000:.1f} GB"
            )


if __name__ == "__main__":
    main()
