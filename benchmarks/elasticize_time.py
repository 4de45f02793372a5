"""What `matvit elasticize` takes for a ViT-B/16 at 224 px: time and memory, in closed form from 300 images.

    python benchmarks/elasticize_time.py

Weights are random and images are noise, which changes neither. The bars are 10 minutes and 6 GB on 2 cores.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
from PIL import Image

import matvit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--check", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, model = Path(folder) / "images", Path(folder) / "model"
        images.mkdir()
        noise = np.random.default_rng(0)
        for number in range(options.images + options.check):
            coarse = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize((320, 240)).save(images / f"{number}.jpg")
        matvit.save(timm.create_model(options.model), model)
        command = [sys.executable, "-m", "cli.main", "elasticize", str(images), "-m", str(model)]
        command += ["-o", str(Path(folder) / "elastic"), "--device", "cpu"]
        command += ["--workers", "0", "--limit", str(options.images), "--check", str(options.check)]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(
        f"{options.model}, {options.images} images, checked on {options.check}: {seconds / 60:.1f} minutes, "
        f"peak {peak / 1e9:.1f} GB (bars 10 and 6)"
    )


if __name__ == "__main__":
    main()
