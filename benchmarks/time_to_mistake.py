"""How long a command takes to say that what it was given is wrong.

    python benchmarks/time_to_mistake.py INDEX IMAGE

Medians of whole processes. The bars are 0.5 s, and 2.5 s where timm has to be asked for a name.
"""

import argparse
import statistics
import subprocess
import sys
import time

MISTAKES = {
    "wrong file": "query nowhere.jpg -i {index}",
    "wrong filter": "query {image} -i {index} --where nonsense",
    "wrong index": "query {image} -i nowhere",
    "a file for a model": "index build nowhere -m {image} -o nowhere.index",
    "wrong model directory": "query {image} -i {index} -m nowhere/",
    "wrong model name": "query {image} -i {index} -m nowhere",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index")
    parser.add_argument("image")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for mistake, command in MISTAKES.items():
        arguments = [part.format(index=options.index, image=options.image) for part in command.split()]
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True, check=False
            )
            seconds.append(time.perf_counter() - start)
        said = (done.stderr or done.stdout).splitlines()[0]
        print(f"{mistake}: {statistics.median(seconds):.2f} s, exit {done.returncode}: {said}")


if __name__ == "__main__":
    main()
