"""A model by its name, timed: which submodels and sizes, and the result in plain values."""

import json
from pathlib import Path

import pytest

from matvit.engines.bench import bench
from matvit.errors import BudgetError, EngineError, UnknownModelError


def test_every_granularity_unless_budgets_are_given(checkpoint: Path) -> None:
    found = bench(str(checkpoint), engines=["eager"], repeats=1, device="cpu")
    assert [str(submodel) for submodel in found.submodels] == ["S", "M", "L", "XL"]
    assert found.batch_sizes == (1,)
    named = bench(
        str(checkpoint), budgets=["S", "S"], batch_sizes=[1, 3], engines=["timm"], repeats=1, device="cpu"
    )
    assert [str(submodel) for submodel in named.submodels] == ["S"]
    assert [result.batch_size for result in named.results] == [1, 3]


def test_plain_values(checkpoint: Path) -> None:
    found = bench(str(checkpoint), budgets=["S"], engines=["eager"], repeats=1, device="cpu")
    told = json.loads(json.dumps(found.to_dict()))
    assert told["results"] == found.table()
    assert (told["model"], told["random_weights"], told["repeats"]) == (str(checkpoint), False, 1)
    assert {row["submodel"] for row in told["results"]} == {"S", "XL"}


def test_mistakes_are_found_before_anything_is_timed(checkpoint: Path) -> None:
    with pytest.raises(EngineError):
        bench("no model", engines=["abacus"])
    with pytest.raises(UnknownModelError):
        bench("no model", device="cpu")
    with pytest.raises(BudgetError):
        bench(str(checkpoint), budgets=["fast"], device="cpu")
