"""A newcomer with photographs: a fresh clone in a fresh environment, and ten jobs, as the README tells them.

    python tests/newcomer.py CLOTHING [-m MODEL]

CLOTHING holds ``train/`` and ``test/`` with a subfolder a class: the clothing data set, or photographs of
your own. MODEL is what the newcomer's ``-m`` says; without it, the default encoder is downloaded. Every job
runs the commands that a person would type, in one folder, and checks what they came to. It needs the network
for pip, 6 GB, and with DINOv2 ViT-S/14 some 20 minutes of two cores. Plain Python: it cannot lean on what is
installed.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CLONE = Path(__file__).parents[1]
PHOTOS, QUERIES = 240, 60
DATED = """
import sys
from PIL import Image
for name in sys.argv[2:]:
    with Image.open(name) as image:
        exif = image.getexif()
        exif.get_ifd(0x8769)[0x9003] = f"{sys.argv[1]}:07:14 12:33:05"
        image.convert("RGB").save(name, "JPEG", exif=exif)
"""
"""Dates photographs as a camera does: those of data sets have lost theirs."""


class Newcomer:
    """Somebody with photographs and a folder to work in.

    Args:
        folder: Empty; everything is made in it.
        images: Holds ``train/`` and ``test/``.
        model: For ``-m``; None is the default encoder.
        python: Makes the environment.
    """

    def __init__(self, folder: Path, images: Path, model: str | None, python: str) -> None:
        self.folder, self.python = folder, python
        self.model = () if model is None else ("-m", model)
        draw = random.Random(0)
        train, test = (sorted(images.glob(f"{split}/*/*.jpg")) for split in ("train", "test"))
        for number, file in enumerate(draw.sample(train, PHOTOS)):
            self._copy(file, f"photos/{'2019 summer' if number % 2 else '2020'}")
            self._copy(file, f"shop/train/{file.parent.name}")
        for file in draw.sample(test, QUERIES):
            self._copy(file, f"shop/test/{file.parent.name}")
        (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff not much of a picture")
        (folder / "photos" / "empty.jpg").touch()

    def _copy(self, file: Path, folder: str) -> None:
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, self.folder / folder)

    def photos(self, album: str) -> list[str]:
        """The photographs of an album, as one would type them."""
        return sorted(
            file.relative_to(self.folder).as_posix() for file in self.folder.glob(f"photos/{album}/*")
        )

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Type a command; it must end with this exit code and without a traceback."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{self.folder / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
        environment["MATVIT_CACHE"] = str(self.folder / "cache")
        done = subprocess.run(
            words, check=False, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        told = f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        check(done.returncode == code, f"exit code {done.returncode}, not {code}: {told}")
        check("Traceback" not in done.stderr, told)
        return done

    def matvit(self, *words: str, code: int = 0) -> str:
        """What a command of ours tells, on stderr."""
        return self.run("matvit", *words, code=code).stderr

    def found(self, *words: str) -> list[dict]:
        """The hits of a query, and what they cost."""
        return json.loads(self.run("matvit", "query", *words, "--json").stdout)


def check(is_right: bool, what: str) -> None:
    """Stop where something is not as the newcomer was told."""
    if not is_right:
        sys.exit(f"not as told: {what}")


def install(me: Newcomer) -> None:
    """Install from a clone."""
    me.run("git", "clone", "-q", str(CLONE), "matvit-clone")
    me.run(me.python, "-m", "venv", "venv")
    me.run("pip", "install", "-q", "-e", "matvit-clone[cpu,demo]")
    check("query" in me.run("matvit", "--help").stdout, "--help lists query")


def see_the_demo(me: Newcomer) -> None:
    """See the whole story on digits."""
    done = me.run("matvit", "demo", "-o", "demo")
    check("GMACs" in done.stdout or "MACs" in done.stdout, done.stdout)
    check((me.folder / "demo" / "neighbours.png").stat().st_size > 10_000, "a picture of neighbours")


def choose_an_encoder(me: Newcomer) -> None:
    """Choose an encoder, and see what budgets it has."""
    listed = json.loads(me.run("matvit", "models", "--json").stdout)
    check(listed["default"] in [model["name"] for model in listed["models"]], "the default is listed")
    check("XL" in me.run("matvit", "plan", *me.model).stdout, "plan shows the full encoder")


def index_photographs(me: Newcomer) -> None:
    """Index photographs, two of which are none."""
    me.run("python", "-c", DATED, "2019", *me.photos("2019 summer"))
    me.run("python", "-c", DATED, "2020", *me.photos("2020"))
    told = me.matvit("index", "build", "photos/", *me.model)
    check(f"{PHOTOS} images indexed, 2 not readable: photos.index" in told, told)
    check("empty.jpg" in told and "broken.jpg" in told, told)
    check("--labels folders" in told, told)
    check(
        "photo.index" in me.matvit("query", me.photos("2020")[0], "-i", "photo.index", code=1),
        "a typing error",
    )


def find(me: Newcomer) -> None:
    """Find a photograph again, at three budgets."""
    photo = me.photos("2020")[0]
    costs = []
    for budget in ("100%", "50%", "25%"):
        hits = me.found(photo, "-i", "photos.index", "-b", budget, "-k", "5", *me.model)
        check(hits["hits"][0]["path"].endswith(photo), f"{budget}: {hits}")
        check(len(hits["hits"]) == 5, f"{budget}: {hits}")
        costs.append(hits["gmacs"])
    check(costs == sorted(costs, reverse=True) and costs[2] < 0.3 * costs[0], str(costs))
    me.matvit("query", "photos/nowhere.jpg", "-i", "photos.index", code=1)
    me.matvit("query", photo, "-i", "photos.index", "-b", "cheap", code=2)


def look(me: Newcomer) -> None:
    """Look at results in the terminal, as a page and as a picture."""
    photo = me.photos("2020")[1]
    table = me.run("matvit", "query", photo, "-i", "photos.index", "-k", "4", *me.model).stdout
    check(photo in table, table)
    for sheet in ("out/page.html", "out/sheet.png"):
        told = me.matvit("query", photo, "-i", "photos.index", "--sheet", sheet, "--open", *me.model)
        check(sheet in told, told)
    page = (me.folder / "out" / "page.html").read_text(encoding="utf-8")
    check("data:image/jpeg" in page and "file:///" in page, "pictures that link to their files")
    check(Path(photo).name in page, "file names")


def narrow_down(me: Newcomer) -> None:
    """Search by date, without copies, and hand paths on."""
    photo = me.photos("2020")[2]
    shutil.copy(me.folder / photo, me.folder / "photos" / "2020" / "copy.jpg")
    me.matvit("index", "add", "photos/", "-i", "photos.index", *me.model)
    last_year = me.found(photo, "-i", "photos.index", "--where", "year(date) = 2019", *me.model)["hits"]
    check(all("2019 summer" in hit["path"] for hit in last_year) and len(last_year) == 10, str(last_year))
    once = me.found(photo, "-i", "photos.index", "--unique", "-k", "20", *me.model)["hits"]
    twice = [hit for hit in once if hit["path"].endswith((photo, "copy.jpg"))]
    check(len(twice) == 1 and len(once) == 20, str(once))
    paths = me.run("matvit", "query", photo, "-i", "photos.index", "--paths", "-0", *me.model).stdout
    check(len(paths.split("\0")) == 11, paths)
    told = me.matvit("query", photo, "-i", "photos.index", "--where", "date > 2019", code=2)
    check("year(date)" in told, told)


def keep_it_up(me: Newcomer) -> None:
    """Keep the index up with the photographs."""
    removed, changed, *_ = (
        Path(photo).relative_to("photos").as_posix() for photo in me.photos("2019 summer")
    )
    shutil.copy(me.folder / me.photos("2020")[0], me.folder / "photos" / changed)
    (me.folder / "photos" / "2020" / "copy.jpg").unlink()
    me.matvit("index", "remove", removed, "-i", "photos.index")
    told = me.matvit("index", "add", "photos/", "-i", "photos.index", "--prune", *me.model)
    check("1 changed" in told and "1 rows removed whose files are gone" in told, told)
    check("1 images were removed earlier and stay so" in told, told)
    check(
        "back" in me.matvit("index", "add", "photos/", "-i", "photos.index", "--restore", *me.model),
        "restored",
    )
    me.matvit("index", "verify", "-i", "photos.index")
    facts = json.loads(me.run("matvit", "index", "info", "-i", "photos.index", "--json").stdout)
    check((facts["images"], facts["not readable"], facts["kept out"]) == (PHOTOS, 2, 0), str(facts))


def make_it_elastic(me: Newcomer) -> None:
    """Make the encoder elastic on these photographs, and query the same index with it."""
    few = ("--limit", "40", "--check", "100", "--axis", "sizes")
    told = me.run("matvit", "elasticize", "photos/", *me.model, "-o", "elastic/", *few)
    check("@" in told.stdout, told.stdout)
    hits = me.found(me.photos("2020")[3], "-i", "photos.index", "-m", "elastic/", "-b", "40%")
    check("@" in hits["submodel"] and hits["hits"][0]["score"] > 0.5, str(hits))


def measure(me: Newcomer) -> None:
    """Measure what budgets lose, and ask for a promise."""
    told = me.matvit("index", "build", "shop/train", *me.model, "-o", "shop.index")
    check("labels are the names" in told, told)
    me.run(
        "matvit",
        "evaluate",
        "shop/test",
        "-i",
        "shop.index",
        "-b",
        "100%",
        "-b",
        "50%",
        "-o",
        "results",
        *me.model,
    )
    check((me.folder / "results" / "curve.csv").exists(), "a table")
    told = me.matvit("calibrate", "shop/test", "-i", "shop.index", "--max-drop", "0.5", *me.model, code=2)
    check("label about 1198 in all" in told, told)


JOBS = (
    *(install, see_the_demo, choose_an_encoder, index_photographs, find),
    *(look, narrow_down, keep_it_up, make_it_elastic, measure),
)


def timed(jobs: tuple[Callable[[Newcomer], None], ...], me: Newcomer) -> Iterator[tuple[str, float]]:
    """Do one job after the other: what each is, and its seconds."""
    for job in jobs:
        start = time.monotonic()
        job(me)
        yield str(job.__doc__), time.monotonic() - start


def main() -> None:
    """Do all jobs in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, metavar="CLOTHING")
    parser.add_argument("-m", "--model")
    parser.add_argument("--python", default=sys.executable, help="makes the environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        me = Newcomer(Path(folder), options.images.absolute(), options.model, options.python)
        for number, (what, seconds) in enumerate(timed(JOBS, me), 1):
            print(f"{number:2} of {len(JOBS)}  {seconds:6.0f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
