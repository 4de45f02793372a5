"""`matvit demo`: the whole story, with the model that ships."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from drawings import pixels
from PIL import Image

from indexes import verify

GREEN, ORANGE = (0, 158, 115), (213, 94, 0)


def test_the_whole_story(matvit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", lambda file: opened.append(file) or 0)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.chdir(tmp_path)
    done = matvit("demo", "-o", tmp_path / "demo", "--device", "cpu", "--open")
    assert done.code == 0
    place = tmp_path / "demo"
    assert opened == [str(place / "neighbours.png")]
    assert verify(place / "digits.index") == []
    with Image.open(place / "evaluation" / "curve.png") as image:
        assert image.getcolors(16) is None
    for frame in (GREEN, ORANGE):
        assert (pixels(place / "neighbours.png") == frame).all(1).any()
    with (place / "evaluation" / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert {row["queries"] for row in rows} == {"360"}
    accuracies = [float(row["adaptive_1nn"]) for row in rows]
    assert min(accuracies) > 0.9, "the model that ships is trained"
    assert "these 360 are easy: S 99.17 (" in done.err
    assert "raw pixels 98.61 (" in done.err

    lines = [line for line in done.out.splitlines() if line.split()[0] in ("S", "M*3+L*1", "XL")]
    measured, found = lines[:3], lines[3:]
    assert (
        [line.split()[0] for line in measured]
        == [line.split()[0] for line in found]
        == ["S", "M*3+L*1", "XL"]
    )
    assert "digits/off-centre/" in done.out
    assert [line.split(" M ")[1].split()[0] for line in found] == ["4", "0,", "0,"]
    assert "4 (wrong), " in found[0]
    assert max(map(len, lines)) <= 80
    assert "XL alone gets 46 queries right, S alone 18" in done.err
    assert "2880 queries, 360 digits; 95 % intervals over digits: S is right less often than XL" in done.err
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
    s, middle, xl = told["off_centre"]
    assert s["gmacs"] < middle["gmacs"] < xl["gmacs"]
    assert s["accuracy"]["value"] < middle["accuracy"]["value"] < xl["accuracy"]["value"]
    low, high = s["to_xl"]["interval"]
    assert -0.02 < low < s["to_xl"]["value"] < high < 0
    assert min(budget[name] for budget in (s, middle, xl) for name in ("ms", "ms_of_64")) > 0
    again = matvit("demo", "-o", tmp_path / "demo")
    assert (again.code, again.out) == (2, "")
    assert "is not empty: choose another folder" in again.err
