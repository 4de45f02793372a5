"""Work in other processes, in order and a little ahead; what ends a process is found, named and left out.

Not torch's DataLoader: where a worker dies, that raises from a signal handler, in whatever code is running,
and cannot say which item was at fault.
"""

import ctypes
import errno
import gc
import os
import re
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from retrieval.errors import LostProcessError

_NICEST = 19
_SHARED_MEMORY = Path("/dev/shm")
_PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Work(Protocol[_Task, _Result]):
    """What is done with a task. The work, tasks and results can be pickled."""

    def __call__(self, task: _Task) -> _Result:
        """The result of a task."""

    def divided(self, task: _Task) -> Sequence[_Task]:
        """A task for each item of one."""

    def joined(self, results: Sequence[_Result]) -> _Result:
        """The result of a task, of those of its items."""

    def lost(self, item: _Task) -> _Result:
        """What to make of an item that ends the process which works on it."""


_given: list[Work[Any, Any]] = []
"""What a process was given to do when it began."""


class Sent:
    """A tensor on its way from one process to another, where it arrives as a tensor.

    Torch sends it through shared memory. Where that is too small, as in many a container, it goes through a
    pipe as all else does, which is slower.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            if self._tensor.numel():
                self._tensor.untyped_storage().share_memory_()
        except RuntimeError as error:
            # Torch leaves a file there, of what memory there was, and says its name.
            if name := re.search(r"</(torch_\w+)>", str(error)):
                (_SHARED_MEMORY / name[1]).unlink(missing_ok=True)
            return _received, (self._tensor.view(torch.uint8).numpy(), self._tensor.dtype)
        return _received, (self._tensor, None)


def _received(sent: Any, dtype: torch.dtype | None) -> Tensor:
    tensor: Tensor = sent if dtype is None else torch.from_numpy(sent).view(dtype)
    return tensor


def in_processes(
    work: Work[_Task, _Result], tasks: Iterable[_Task], *, workers: int, gives_way: bool
) -> Iterator[_Result]:
    """The results of tasks in their order, worked on by other processes.

    Where a process is killed or crashes, the task that waited for it is done once more, item by item, in a
    process that does nothing else: an item that ends that one too is lost, even if that is every item.

    Args:
        work: What to do with a task.
        tasks: Taken in this process, two for each worker at a time.
        workers: How many processes.
        gives_way: Whether this process goes first where there is not enough of the processor for all.

    Raises:
        LostProcessError: A process ends before it is given an item, which is no item's fault.
    """
    tasks, waiting = iter(tasks), deque[tuple[_Task, Future[_Result]]]()
    begin = partial(_begin, work, parent=os.getpid(), gives_way=gives_way)
    pool = _pool(workers, begin)
    try:
        while True:
            while len(waiting) < 2 * workers and (task := next(tasks, None)) is not None:
                waiting.append((task, _submitted(pool, _done, task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                result = _one_by_one(work, task, begin)
                pool = _pool(workers, begin)
                waiting = deque((task, _submitted(pool, _done, task)) for task, _ in waiting)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(work: Work[_Task, _Result], task: _Task, begin: Callable[[], None]) -> _Result:
    results, pool = [], None
    try:
        for item in work.divided(task) or [task]:
            pool = pool or _proven(begin)
            try:
                results.append(_submitted(pool, _done, item).result())
            except BrokenProcessPool:
                results.append(work.lost(item))
                pool.shutdown()
                pool = None
    finally:
        if pool is not None:
            pool.shutdown()
    return work.joined(results)


def _proven(begin: Callable[[], None]) -> ProcessPoolExecutor:
    """A process that has shown that it lives before it gets an item, whose fault its end then is.

    Raises:
        LostProcessError: It does not.
    """
    pool = _pool(1, begin)
    try:
        _submitted(pool, int).result()
    except BrokenProcessPool as error:
        pool.shutdown()
        raise LostProcessError(
            "processes that decode are killed or crash before they have an image: use fewer --workers if "
            "memory is short, or --workers 0 to decode in this process"
        ) from error
    return pool


def _pool(workers: int, begin: Callable[[], None]) -> ProcessPoolExecutor:
    # From Python 3.14 on, Linux would have a server between a worker and the parent that it watches.
    context = get_context("fork") if sys.platform == "linux" else None
    try:
        return ProcessPoolExecutor(workers, context, initializer=begin)
    except OSError as error:
        if error.errno == errno.ENOSPC and sys.platform == "linux":
            error.filename = str(_SHARED_MEMORY)  # Where locks are kept.
        raise


def _submitted(pool: ProcessPoolExecutor, function: Callable[..., Any], *task: Any) -> "Future[Any]":
    try:
        with warnings.catch_warnings():
            # The processes only decode, with one thread each: none of this one's is of use to them.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            return pool.submit(function, *task)
    except BrokenProcessPool as error:
        broken: Future[Any] = Future()
        broken.set_exception(error)
        return broken


def _done(task: Any) -> Any:
    """The result of a task, in a process that has begun."""
    return _given[0](task)


def _begin(work: Work[Any, Any], *, parent: int, gives_way: bool) -> None:
    # A process that was forked has the work already: sent with every task, it would take time, and its
    # tensors shared memory.
    _given[:] = [work]
    # The pool's own watch over the parent begins later: were it dead by then, a worker would wait for ever.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its processes.
    torch.set_num_threads(1)  # Threads do not survive a fork, and what waits for them waits for ever.
    # What was inherited is shared until it is written to, as Python's collector would, in every object.
    gc.freeze()
    if gives_way:  # On a processor, the encoder goes first: each of its threads waits for the others.
        os.nice(_NICEST)
