"""All engines, and those that names stand for.

A further engine is a file like those of these, and a line in `ENGINES`. Importing them loads no compiler and
no other runtime.
"""

from collections.abc import Iterable

from matvit.engines.compiled import Compiled
from matvit.engines.eager import Eager
from matvit.engines.engine import Engine, QueryEngine
from matvit.engines.onnx_runtime import OnnxRuntime
from matvit.engines.openvino_runtime import OpenVino
from matvit.engines.timm_eager import TimmEager
from matvit.errors import EngineError, MissingEngineError

ENGINES: tuple[Engine, ...] = (
    TimmEager(),
    Eager(),
    Compiled(),
    OpenVino(),
    OnnxRuntime(),
)
"""In the order of the rows of a comparison."""


def engines_named(names: Iterable[str] | None) -> tuple[Engine, ...]:
    """The engines of these names, installed or not, in the order of the names; None is all.

    Raises:
        EngineError: There is none of such a name.
    """
    known = {engine.name: engine for engine in ENGINES}
    wanted = dict.fromkeys(known if names is None else names)
    for name in wanted:
        if name not in known:
            raise EngineError(f"{name!r} is no engine: write {_listed(known)}")
    return tuple(known[name] for name in wanted)


def query_engine(name: str) -> QueryEngine:
    """The engine of a name, to serve queries.

    Raises:
        EngineError: There is none, or it serves no queries.
        MissingEngineError: It is not installed.
    """
    serving = {engine.name: engine for engine in ENGINES if isinstance(engine, QueryEngine)}
    if name not in serving:
        raise EngineError(f"{name!r} is no engine for queries: write {_listed(serving)}")
    if missing := serving[name].missing:
        raise MissingEngineError(f"engine {name}: {missing}")
    return serving[name]


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
