"""Engines by name: which there are, what importing them loads, and one more as a file and a line."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from toy_engine import register

from matvit.engines.all_engines import ENGINES, engines_named, query_engine
from matvit.engines.compare import compare, ways_on
from matvit.engines.engine import Engine, QueryEngine
from matvit.errors import EngineError, MissingEngineError

CPU = torch.device("cpu")


def test_names_and_titles_are_taken_once() -> None:
    assert [engine.name for engine in ENGINES] == ["timm", "eager", "compiled", "openvino", "onnxruntime"]
    assert len({engine.title for engine in ENGINES}) == len(ENGINES)


def test_names_find_their_engines_once_each_in_order() -> None:
    assert engines_named(None) == ENGINES
    found = engines_named(["openvino", "eager", "openvino"])
    assert [engine.name for engine in found] == ["openvino", "eager"]
    assert engines_named([]) == ()


@pytest.mark.parametrize("name", ["nonsense", "", "Eager", "eager ", "red\nblue"])
def test_an_unknown_name_gets_one_line_that_lists_the_known(name: str) -> None:
    with pytest.raises(EngineError) as all_of_them:
        engines_named(["eager", name])
    assert str(all_of_them.value) == (
        f"{name!r} is no engine: write timm, eager, compiled, openvino or onnxruntime"
    )
    with pytest.raises(EngineError) as of_queries:
        query_engine(name)
    assert str(of_queries.value) == f"{name!r} is no engine for queries: write eager or compiled"
    assert issubclass(EngineError, ValueError)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_only_some_serve_queries(engine: Engine) -> None:
    name = engine.name
    if name in ("eager", "compiled"):
        assert query_engine(name) is engine
    else:
        assert not isinstance(engine, QueryEngine)
        with pytest.raises(EngineError, match=f"^'{name}' is no engine for queries"):
            query_engine(name)


def test_one_that_is_not_installed_serves_no_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "torch", "no_such_module")
    with pytest.raises(MissingEngineError) as missing:
        query_engine("toy")
    assert str(missing.value) == "engine toy: not installed: pip install torch no_such_module"
    assert issubclass(MissingEngineError, RuntimeError)


IMPORTED = """
import sys
import matvit.engines.all_engines, matvit.engines.compare
heavy = {"torch._inductor.codecache", "openvino", "onnx", "onnxscript", "onnxruntime"}
print(sorted(heavy & set(sys.modules)))
"""


def test_importing_them_all_loads_no_compiler_and_no_other_runtime() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_one_more_is_a_file_and_a_line(make_tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = register(monkeypatch)
    assert "toy fp32" in [way.name for way in ways_on(CPU)]
    encoder = make_tiny(depth=2, num_classes=0)
    small = encoder.space.smallest
    baseline, result = compare(encoder, ways=ways_on(CPU, ["toy"]), submodels=[small], repeats=1)
    assert (baseline.engine, result.engine, result.submodel) == ("timm eager fp32", "toy fp32", small)
    assert result.timing.ms > 0
    assert (result.cosine_mean, result.cosine_worst) == pytest.approx((1, 1), abs=1e-6)
    assert set(toy.ran) == {(small, torch.float32)}
    with pytest.raises(EngineError, match=r"is no engine for queries: write eager, compiled or toy$"):
        query_engine("nonsense")
