"""`matvit calibrate`, and what `auto` then means to the others."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_world import files_of, shard_of

from indexes import Index
from retrieval.measuring.paired_test import queries_needed


@pytest.fixture
def own(index: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(index, tmp_path / "own.index"))


def test_from_calibration_to_a_query(matvit: Callable, own: Path, queries: Path) -> None:
    done = matvit("calibrate", queries, "-i", own, "--max-drop", "90", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["submodel"] == Index.open(own).manifest.calibration["submodel"]
    assert told["queries"] + told["check_queries"] == 20
    assert next(one["submodel"] for one in told["tested"]).endswith("XL*3")
    image = next(queries.rglob("*.png"))
    [line] = matvit("query", image, "-i", own, "-b", "auto", "--json").out.splitlines()
    assert json.loads(line)["submodel"] == told["submodel"]
    [point] = json.loads(matvit("evaluate", queries, "-i", own, "-b", "auto", "--json").out)["points"]
    assert point["submodel"] == told["submodel"]
    assert f"{told['submodel']}, to lose less than 90 points" in matvit("index", "info", "-i", own).out


def test_what_is_shown(matvit: Callable, own: Path, queries: Path) -> None:
    done = matvit("calibrate", queries, "-i", own, "--max-drop", "80")
    assert done.code == 0
    for column in ("submodel", "drop", "only XL right", "only it right", "promised"):
        assert column in done.out
    assert "of XL's MACs: chosen so that" in done.err
    before, *_ = done.err.splitlines()
    counts, takes = before.removesuffix(", and more if they do").split("; ")
    assert re.fullmatch(r"\d+ labelled queries choose and \d+ check", counts)
    assert (
        takes == "to promise a drop below 80 points takes 2 that choose if a submodel and XL never disagree"
    )
    assert done.err.count(f"{counts}; {takes}, ") == 2
    assert "other queries saw a drop of" in done.err


def test_too_few_queries_are_refused_and_the_index_keeps_what_it_had(
    matvit: Callable, own: Path, queries: Path, tmp_path: Path
) -> None:
    matvit("calibrate", queries, "-i", own, "--max-drop", "90")
    kept = (own / "manifest.json").read_bytes()
    shard = shard_of(tmp_path / "q.tar", files_of(queries))
    fit = ("--fit", queries)
    for arguments in ((queries,), (queries, *fit), (shard,)):
        done = matvit("calibrate", *arguments, "-i", own)
        assert done.code == 2
        *_, last = done.err.splitlines()
        assert "which is too few: to promise a drop below 0.5 points takes 599 that choose" in last
        assert last.endswith(
            "label about 1198 in all, hold out fewer (--held-out) or allow a larger --max-drop"
        )
        assert (own / "manifest.json").read_bytes() == kept


def test_too_few_queries_are_told_before_torch_is_loaded(index: Path, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is loaded')")
    command = [sys.executable, "-c", "from cli.main import main; main()", "calibrate", queries, "-i", index]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert re.match(r"matvit: \d+ labelled queries choose and \d+ check, which is too few", last)


def test_help_says_how_many_queries_half_a_point_takes(matvit: Callable) -> None:
    told = " ".join(matvit("calibrate", "--help").out.replace("│", "").split())
    assert f"takes {queries_needed(0.005)} that choose" in told


def test_mistakes(matvit: Callable, own: Path, index: Path, queries: Path) -> None:
    for arguments, message in [
        (
            ("plan", "-m", "vit_tiny_patch16_224", "-i", own),
            "was made by a matvit_tiny_patch16_224, not by",
        ),
        (("calibrate", "-i", own), "give labelled QUERIES, or --fit IMAGES"),
        (("calibrate", "--fit", own / "nothing", "-i", own), "no such file or folder"),
        (("calibrate", queries, "-i", own, "--max-drop", "0"), "write points of accuracy"),
        (("calibrate", queries, "-i", own, "--held-out", "1"), "less than or equal to 0.9"),
        (("calibrate", queries), "Missing option '--index'"),
        (("calibrate", own / "nothing", "-i", own), "no such file or folder"),
        (("query", next(queries.rglob("*.png")), "-i", index, "-b", "auto"), "has no budget auto yet"),
    ]:
        done = matvit(*arguments)
        assert done.code == 2
        assert message in " ".join(done.err.split())


def test_a_curve_is_measured_without_labels(
    matvit: Callable, own: Path, queries: Path, tmp_path: Path
) -> None:
    unlabelled = tmp_path / "photos"
    unlabelled.mkdir()
    for number, image in enumerate(queries.rglob("*.png")):
        shutil.copy(image, unlabelled / f"{number}.png")
    (unlabelled / "broken.jpg").write_bytes(b"no image")
    done = matvit("calibrate", "--fit", unlabelled, "-i", own)
    assert done.code == 0
    assert "broken.jpg" in done.err
    kept = Index.open(own).manifest.curve["cosines"]
    assert f"keeps a curve of {len(kept)} submodels, measured on 15 images" in done.err
    header, *rows = done.out.splitlines()
    assert header.split()[:2] == ["submodel", "MACs"]
    assert {row.split()[0] for row in rows} == set(kept)
    assert rows[-1].split()[0] == "XL"
    planned = json.loads(matvit("plan", "-i", own, "--json").out)
    assert {row["submodel"]: row["cosine"] for row in planned} == kept
    told = f"{len(kept)} submodels, cosines of {min(kept.values()):.3f} and more, on 15 images"
    assert told in matvit("index", "info", "-i", own).out
    both = json.loads(matvit("plan", "-i", own, "--mixnmatch", "--json").out)
    assert {row["submodel"] for row in both} >= {*kept, "S", "M", "L"}
    table = matvit("plan", "-i", own, "--mixnmatch").out.splitlines()
    assert "cosine to XL" in table[0]


def test_a_curve_and_a_promise_at_once(matvit: Callable, own: Path, queries: Path) -> None:
    done = matvit("calibrate", queries, "--fit", queries, "-i", own, "--max-drop", "90", "--json")
    told = json.loads(done.out)
    manifest = Index.open(own).manifest
    assert told["curve"] == manifest.curve["cosines"]
    assert told["submodel"] == manifest.calibration["submodel"]
    assert told["submodel"] in told["curve"]
    assert {each["submodel"] for each in told["tested"]} <= set(told["curve"])


def test_the_model_of_an_index_is_planned_for(matvit: Callable, index: Path, checkpoint: Path) -> None:
    assert matvit("plan", "-i", index, "--json").out == matvit("plan", "-m", checkpoint, "--json").out
