"""`matvit models`, and the encoder that is taken where nobody names one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from indexes import Index
from matvit.weights.known_models import DEFAULT, KNOWN_MODELS


def test_a_line_for_each(matvit: Callable) -> None:
    done = matvit("models")
    assert done.code == 0
    header, *rows = done.out.splitlines()
    assert header.split()[0] == "-m"
    assert [row.split()[0] for row in rows] == [model.name for model in KNOWN_MODELS]
    assert DEFAULT in done.err


def test_json(matvit: Callable) -> None:
    found = json.loads(matvit("models", "--json").out)
    assert found["default"] == DEFAULT
    assert [model["name"] for model in found["models"]] == [model.name for model in KNOWN_MODELS]


def test_the_page_says_the_same(matvit: Callable) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line[:3] == "| `"
    ]
    assert rows[1:] == [
        [m.name, f"{m.mparams:g}", f"{m.gmacs:g}", str(m.megabytes), m.licence, m.good_for]
        for m in KNOWN_MODELS
    ]


def test_a_folder_is_enough(
    matvit: Callable, corpus: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATVIT_MODEL", str(checkpoint))
    assert matvit("index", "build", corpus).code == 0
    assert Index.open(tmp_path / f"{corpus.name}.index").manifest.checkpoint == str(checkpoint)


def test_plan_bench_and_elasticize_need_no_name_either(
    matvit: Callable, corpus: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = matvit("plan", "-m", checkpoint, "--json").out
    monkeypatch.setenv("MATVIT_MODEL", str(checkpoint))
    assert matvit("plan", "--json").out == named
    few = ("--engine", "eager", "--repeats", 1, "-b", "S", "--device", "cpu", "--json")
    assert json.loads(matvit("bench", *few).out)["model"] == str(checkpoint)
    made = ("-o", tmp_path / "elastic", "--limit", 4, "--check", 4, "--device", "cpu")
    assert matvit("elasticize", corpus, *made).code == 0
    assert matvit("plan", "-m", tmp_path / "elastic").code == 0


def test_an_index_knows_its_model_better_than_the_environment(
    matvit: Callable, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = matvit("plan", "-i", index, "--json").out
    monkeypatch.setenv("MATVIT_MODEL", "matvit_base_patch16_224")
    assert matvit("plan", "-i", index, "--json").out == planned
    assert len(json.loads(matvit("plan", "--json").out)) == 37


def test_offline_the_default_is_missed_at_once_and_by_name(
    matvit: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("matvit.weights.hub.get_session", None)
    done = matvit("index", "build", corpus)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"matvit: cannot download {DEFAULT}: no connection to https://huggingface.co")


def test_where_the_index_goes_cannot_always_be_told(matvit: Callable, checkpoint: Path) -> None:
    done = matvit("index", "build", "torchvision:mnist", "-m", checkpoint)
    assert done.code == 2
    assert "say with -o where the index goes" in done.err
