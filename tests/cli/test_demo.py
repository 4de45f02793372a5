"""`matvit demo`: the whole story, with the model that ships."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from indexes import verify


def test_the_whole_story(matvit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = matvit("demo", "-o", tmp_path / "demo", "--device", "cpu")
    assert done.code == 0
    place = tmp_path / "demo"
    assert verify(place / "digits.index") == []
    for name in ("neighbours.png", "evaluation/curve.png"):
        with Image.open(place / name) as image:
            assert image.getcolors(16) is None
    with (place / "evaluation" / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert {row["queries"] for row in rows} == {"360"}
    accuracies = [float(row["adaptive_1nn"]) for row in rows]
    assert min(accuracies) > 0.9, "the model that ships is trained"
    assert "360 queries" in done.err
    for text in ("raw pixels, euclidean", "raw pixels, cosine", "98.61 (", "of XL", "adaptive 1-NN %"):
        assert text in done.out
    for row in rows:
        assert row["submodel"] in done.out
        assert f"{100 * float(row['adaptive_1nn']):.2f} (" in done.out
    assert str(place / "digits.index") in done.out
    suggestion = next(line for line in done.err.splitlines() if line.startswith("Try: matvit "))
    again = matvit(*suggestion.removeprefix("Try: matvit ").split())
    assert again.code == 0
    assert "MACs" in again.out


def test_json_and_a_folder_in_use(matvit: Callable, tmp_path: Path) -> None:
    done = matvit("demo", "-o", tmp_path / "demo", "--device", "cpu", "--json")
    told = json.loads(done.out)
    assert (len(told["points"]), told["queries"]) == (13, 360)
    assert all(Path(path).exists() for path in told["made"].values())
    again = matvit("demo", "-o", tmp_path / "demo")
    assert (again.code, again.out) == (2, "")
    assert "is not empty: choose another folder" in again.err
