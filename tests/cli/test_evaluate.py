"""`matvit evaluate`: table, JSON, files kept."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from retrieval import Searcher, open_source
from retrieval.measuring.evaluate import evaluate
from retrieval.measuring.pixels import raw_pixel_1nn


def test_the_whole_curve_is_the_default(matvit: Callable, index: Path, queries: Path) -> None:
    done = matvit("evaluate", queries, "-i", index, "--json")
    assert done.code == 0
    searcher = Searcher.open(index)
    result = evaluate(searcher, open_source(queries), searcher.encoder.space.curve)
    counts = {"queries": 20, "unlabelled": 0, "failures": 0, "left_out": 0, "alone": 0}
    assert json.loads(done.out) == {"points": result.table(), "raw_pixels": {}, **counts}
    assert "20 queries" in done.err
    assert matvit("evaluate", queries, "-i", index, "-b", "all", "--json").out == done.out


def test_chosen_budgets_each_once(matvit: Callable, index: Path, queries: Path) -> None:
    done = matvit("evaluate", queries, "-i", index, "-b", "XL", "-b", "S", "-b", "100%", "--json")
    assert [point["submodel"] for point in json.loads(done.out)["points"]] == ["S", "XL"]


@pytest.mark.filterwarnings("default")
def test_times_are_measured_once_for_all_budgets(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path, made_up_times: list[int]
) -> None:
    (tmp_path / "cache").touch()  # Where nothing can be kept.
    budgets = ("-b", "512ms", "-b", "64ms", "-b", "112ms")
    done = matvit("evaluate", queries, "-i", index, *budgets, "--json")
    assert done.code == 0
    assert [point["submodel"] for point in json.loads(done.out)["points"]] == ["S", "S*1+M*3", "XL"]
    assert len(made_up_times) == 1
    told = [line for line in done.err.splitlines() if " takes " in line]
    assert told == [
        "512ms: XL takes 510 ms ±0%",
        "64ms: S takes 64 ms ±2%",
        "112ms: S*1+M*3 takes 110 ms ±1%",
    ]


def test_floors_and_the_same_encoder(matvit: Callable, index: Path, queries: Path, corpus: Path) -> None:
    arguments = ("evaluate", queries, "-i", index, "-b", "M", "--same-encoder", "--raw-pixels")
    told = json.loads(matvit(*arguments, "--json").out)
    floors = raw_pixel_1nn(open_source(corpus), open_source(queries))
    assert told["raw_pixels"]["euclidean"] == {
        "accuracy": floors["euclidean"].value,
        "low": pytest.approx(floors["euclidean"].interval[0]),
        "high": pytest.approx(floors["euclidean"].interval[1]),
        "queries": 20,
    }
    assert 0 <= told["points"][0]["same_encoder_1nn"] <= 1
    table = matvit(*arguments, "-o", index.parent / "floors").out
    kept = (index.parent / "floors" / "raw_pixels.csv").read_text().splitlines()
    assert kept[0] == "distance,accuracy,low,high,queries"
    assert [line.split(",")[0] for line in kept[1:]] == ["euclidean", "cosine"]
    for text in (
        str(floors["euclidean"]),
        str(floors["cosine"]),
        "raw pixels, cosine",
        "same encoder 1-NN %",
    ):
        assert text in table


def test_what_is_kept(matvit: Callable, index: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    done = matvit("evaluate", queries, "-i", index, "-b", "S", "-b", "L", "-o", out, "--json")
    assert done.code == 0
    with (out / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = json.loads(done.out)["points"]
    assert [{k: str(v) for k, v in point.items()} for point in points] == rows
    with Image.open(out / "curve.png") as image:
        assert image.getcolors(16) is None
    for name in ("consistency.png", "curve.png"):
        with Image.open(out / name) as image:
            assert image.size[0] > 500
    assert not (out / "disagreements.png").exists()  # XL was not measured
    command = (out / "command.txt").read_text()
    assert command == f"matvit evaluate {queries} -i {index} -b S -b L -o {out} --json\n"


def test_where_the_smallest_and_the_full_encoder_disagree_is_drawn(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path
) -> None:
    done = matvit("evaluate", queries, "-i", index, "-b", "S", "-b", "XL", "-o", tmp_path / "out")
    assert done.code == 0
    assert "disagreements.png" in done.err
    with Image.open(tmp_path / "out" / "disagreements.png") as image:
        assert image.getcolors(16) is None


@pytest.mark.filterwarnings("default")
def test_milliseconds_where_asked_for(
    matvit: Callable, index: Path, queries: Path, made_up_times: list[int]
) -> None:
    done = matvit("evaluate", queries, "-i", index, "-b", "S", "-b", "XL", "--measure", "--json")
    assert [point["ms"] for point in json.loads(done.out)["points"]] == [64, 512]
    assert len(made_up_times) == 1
    table = matvit("evaluate", queries, "-i", index, "-b", "S", "-b", "XL", "--measure").out
    assert " ms " in table.splitlines()[0]


def test_unreadable_and_unlabelled_queries_are_told(
    matvit: Callable, index: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "red").mkdir(parents=True)
    for name in ("a.png", "red/b.png"):
        (tmp_path / "photos" / name).write_bytes((corpus / "red" / "01.png").read_bytes())
    (tmp_path / "photos" / "red" / "c.png").touch()
    done = matvit("evaluate", tmp_path / "photos", "-i", index, "-b", "XL")
    assert done.code == 0
    assert "not readable: red/c.png: empty file (0 bytes)" in done.err
    assert "1 queries; 1 not readable; 1 without a label, left out" in done.err
    assert "100.00 (20.65-100.00)" in done.out
    assert "40 in the corpus too" in matvit("evaluate", corpus, "-i", index, "-b", "XL").err


def test_queries_of_other_labels_are_a_mistake(
    matvit: Callable, index: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "mauve").mkdir(parents=True)
    (tmp_path / "photos" / "mauve" / "a.png").write_bytes((corpus / "red" / "01.png").read_bytes())
    done = matvit("evaluate", tmp_path / "photos", "-i", index, "--json", "-o", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert "none of the queries' labels (mauve" in done.err
    assert not (tmp_path / "out").exists()


def test_a_floor_that_cannot_be_measured_costs_nothing_else(
    matvit: Callable, checkpoint: Path, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(corpus, tmp_path / "photos")
    assert matvit("index", "build", moved, "-m", checkpoint, "-o", tmp_path / "i").code == 0
    shutil.rmtree(moved)
    done = matvit("evaluate", queries, "-i", tmp_path / "i", "-b", "S", "--raw-pixels", "--json")
    assert done.code == 0
    assert "raw pixels not measured: " in done.err
    told = json.loads(done.out)
    assert (len(told["points"]), told["raw_pixels"]) == (1, {})
