"""Submodels compiled with frozen weights, for processes that live long enough to earn the compile time back.

Each graph is compiled by itself, ahead of its first call, from an exported program. Nothing here goes
through ``torch.compile``, for three reasons: it stops compiling after a few shapes of one piece of code and
runs the rest eager; ``options={"freezing": True}`` reaches its backend too late to freeze anything; and a
frozen graph that it made is never freed.
"""

import ctypes
import gc
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from types import ModuleType

import torch
from torch import Tensor, nn

from matvit.engines.engine import QueryEngine
from matvit.errors import CompileError
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel

_log = logging.getLogger(__name__)

# The compiler keeps its generated modules in one list for all threads.
_COMPILING = Lock()


@dataclass(frozen=True)
class _Graph:
    run: Callable[[Tensor], Tensor]
    memory_bytes: int


class CompiledSubmodels:
    """A few submodels of one model, each compiled when it is first asked for.

    A graph is for one submodel and one shape of images: another batch size is another graph, with weights
    of its own. So keep to one batch size, or to few. Threads may call at the same time; those that ask for
    what is not compiled yet wait for it, the others do not.

    Weights are copied when a submodel is compiled: later changes to the model are not seen.

    Args:
        model: An elastic encoder in evaluation mode; its device and number format are the graphs'.
        limit: Graphs kept; the one least recently used makes room for the next.

    Example:
        >>> compiled = CompiledSubmodels(model.bfloat16())
        >>> embeddings = compiled(images, model.submodel("60%"))
    """

    def __init__(self, model: ElasticEncoder, *, limit: int = 4) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._model, self._limit = model, limit
        self._graphs: OrderedDict[tuple[Submodel, torch.Size], _Graph] = OrderedDict()
        self._table = Lock()

    def __call__(self, images: Tensor, submodel: Submodel | None = None) -> Tensor:
        """Normalised images (B, C, H, W), on any device, to what the model answers; None is the full encoder.

        Raises:
            SubmodelError: The submodel does not fit this encoder.
            CompileError: It cannot be compiled here. Nothing ever runs uncompiled instead.
        """
        weights = next(self._model.parameters())
        images = images.to(weights.device, weights.dtype).contiguous()
        key = (submodel or self._model.space.full, images.shape)
        graph = self._held(key) or self._compile(key)
        with torch.inference_mode():
            return graph.run(images)

    @property
    def submodels(self) -> tuple[Submodel, ...]:
        """Those compiled now, the least recently used first."""
        with self._table:
            return tuple(dict.fromkeys(submodel for submodel, _ in self._graphs))

    @property
    def memory_bytes(self) -> int:
        """Size of the frozen weights held now, beside the model's own."""
        with self._table:
            return sum(graph.memory_bytes for graph in self._graphs.values())

    def _held(self, key: tuple[Submodel, torch.Size]) -> _Graph | None:
        with self._table:
            graph = self._graphs.get(key)
            if graph:
                self._graphs.move_to_end(key)
            return graph

    def _compile(self, key: tuple[Submodel, torch.Size]) -> _Graph:
        submodel, shape = key
        self._model.space.check(submodel)
        with _COMPILING:
            if graph := self._held(key):  # Another thread was quicker.
                return graph
            with self._table:
                while len(self._graphs) >= self._limit:  # Now: the next one needs the memory.
                    self._graphs.popitem(last=False)
            started = time.perf_counter()
            graph = _frozen(self._model.cut(submodel, copy=True).eval(), shape, str(submodel))
            _give_back_memory()
            seconds = time.perf_counter() - started
            with self._table:
                self._graphs[key] = graph
        held = _size_text(self.memory_bytes)
        _log.info("compiled %s in %.0f s; frozen weights hold %s", submodel, seconds, held)
        return graph


class Compiled(QueryEngine):
    """This library, compiled: worth minutes of waiting only in processes that live long."""

    name = "compiled"
    title = "matvit compiled"

    def formats(self, device: torch.device) -> tuple[torch.dtype, ...]:
        """See `Engine.formats`."""
        return (torch.bfloat16, torch.float32) if device.type in ("cpu", "cuda") else ()

    def runner(self, encoder: ElasticEncoder) -> CompiledSubmodels:
        """See `QueryEngine.runner`."""
        return CompiledSubmodels(encoder)


def _frozen(plain: nn.Module, shape: torch.Size, name: str) -> _Graph:
    """Compile a plain model for images of one shape, its weights constants in their fastest layout."""
    from torch._inductor.codecache import PyCodeCache  # Here, because it loads torch's compiler.

    weights = next(plain.parameters())
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            images = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
            program = torch.export.export(plain, (images,)).module()
            before = list(map(id, PyCodeCache.modules))
            run = torch._inductor.compile(program, [images], options={"freezing": True})
            for part in program.modules():  # The graph drags the program along, which it no longer needs.
                part._parameters.clear()
                part._buffers.clear()
    except Exception as error:  # A compiler fails in as many ways as there are models and machines.
        if "InvalidCxxCompiler" in str(error):
            raise CompileError("compiling needs a C++ compiler, and none is here: install g++") from error
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CompileError(f"{name} cannot be compiled: {reason}") from error
    generated = [module for module in PyCodeCache.modules if id(module) not in before]
    _forget(generated)
    return _Graph(run, _frozen_bytes(generated))


def _forget(generated: list[ModuleType]) -> None:
    """Leave generated modules, which hold the frozen weights, to the graph that runs them.

    The compiler would keep them, and so the weights, until the process ends.
    """
    from torch._inductor.codecache import PyCodeCache

    ours = set(map(id, generated))
    PyCodeCache.modules[:] = [module for module in PyCodeCache.modules if id(module) not in ours]
    for module in generated:
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]


def _frozen_bytes(generated: list[ModuleType]) -> int:
    """Memory that the weights in generated modules fill."""
    held = {id(value): value for module in generated for value in vars(module).values()}
    tensors = [value for value in held.values() if isinstance(value, Tensor)]
    ordinary = [tensor for tensor in tensors if not tensor.is_mkldnn]
    packed = [tensor for tensor in tensors if tensor.is_mkldnn]
    total = sum(tensor.untyped_storage().nbytes() for tensor in ordinary)
    # MKL packs float32 matrices into one column, of which it fills as much as the originals are large; they
    # stay beside it.
    by_onednn = [tensor for tensor in packed if tensor.shape[1:] != (1,)]
    if len(by_onednn) < len(packed):
        total += sum(tensor.nbytes for tensor in ordinary if tensor.dim() == 2)
    return total + sum(map(torch.ops.mkldnn._nbytes, by_onednn))


def _give_back_memory() -> None:
    """Return to the system what a compilation or a dropped graph has left over, where glibc can."""
    gc.collect()  # Programs are full of cycles.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _size_text(size_bytes: int) -> str:
    """Four significant digits and a decimal prefix: 86.57 MB."""
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.4g} {prefix}B"
    return f"{size_bytes} B"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the line about a CUDA toolkit that is installed where there is no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
