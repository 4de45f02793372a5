"""Search parameters of a FAISS index: the cheapest that reach a recall."""

from collections.abc import Callable, Sequence
from typing import Any

from indexes.faiss_kinds.recall import Measured, Queries, measure
from indexes.faiss_kinds.search import require_faiss
from indexes.progress import Progress, silent

MOST_SETTINGS = 60
# Without the target in reach, the cheapest setting is taken that comes this close to the best.
_NEAR_BEST = 0.99


def tune(
    index: Any,
    factory: str,
    queries: Queries,
    *,
    recall_target: float,
    rerank: int,
    progress: Progress = silent,
) -> Measured:
    """Set an index to the cheapest search parameters that reach a recall, and say what was measured.

    From FAISS's smallest values, the parameter whose next value gains the most recall is raised, one after
    the other, so that nothing much dearer than the answer is ever tried. What is reached is then trimmed.
    Times, which differ from run to run, decide nothing.

    Args:
        index: Filled.
        factory: What it is, for `progress`.
        queries: To measure with.
        recall_target: Share of the true neighbours. Where it is out of reach, the parameters are the
            cheapest of those that come near the best.
        rerank: Candidates a query that are scored again by the stored vectors; 0 is none.
        progress: Told of every setting that was tried, of `MOST_SETTINGS` at most.
    """
    names, values = _ranges(index)
    tried: dict[tuple[int, ...], Measured] = {}

    def at(setting: Sequence[int]) -> Measured:
        key = tuple(setting)
        if key not in tried:
            parameters = ",".join(f"{name}={value}" for name, value in zip(names, key, strict=True))
            tried[key] = measure(index, queries, rerank=rerank, parameters=parameters)
            progress(f"settings tried of {factory}", len(tried), MOST_SETTINGS)
        return tried[key]

    def reaches(setting: Sequence[int]) -> bool:
        return at(setting).recall >= recall_target

    setting = [steps[0] for steps in values]
    while not reaches(setting) and len(tried) < MOST_SETTINGS:
        raised = [
            _with(setting, i, next(value for value in steps if value > setting[i]))
            for i, steps in enumerate(values)
            if setting[i] < steps[-1]
        ]
        if not raised:
            break
        setting = max(raised, key=lambda one: at(one).recall)
    if reaches(setting):
        for i, steps in enumerate(values):
            setting = _trimmed(setting, i, steps, reaches)
        chosen = at(setting)
    else:
        best = max(one.recall for one in tried.values())
        chosen = next(one for one in tried.values() if one.recall >= _NEAR_BEST * best)
    require_faiss().ParameterSpace().set_index_parameters(index, chosen.parameters)
    return chosen


def _trimmed(
    setting: list[int], i: int, steps: Sequence[int], reaches: Callable[[list[int]], bool]
) -> list[int]:
    """A setting that reaches the target, with parameter i no more than an eighth above where it would not."""
    below = [value for value in steps if value < setting[i]]
    while below and reaches(_with(setting, i, below[-1])):
        setting = _with(setting, i, below.pop())
    low = below[-1] if below else setting[i]
    while setting[i] - low > max(1, setting[i] // 8):
        middle = _with(setting, i, (low + setting[i]) // 2)
        if reaches(middle):
            setting = middle
        else:
            low = middle[i]
    return setting


def _with(setting: Sequence[int], i: int, value: int) -> list[int]:
    return [*setting[:i], value, *setting[i + 1 :]]


def _ranges(index: Any) -> tuple[list[str], list[list[int]]]:
    """The names of an index' search parameters and the values, ascending, that FAISS would try."""
    faiss = require_faiss()
    space = faiss.ParameterSpace()
    space.initialize(index)
    ranges = {}
    for i in range(space.parameter_ranges.size()):
        parameter = space.parameter_ranges.at(i)
        ranges[parameter.name] = [int(value) for value in faiss.vector_to_array(parameter.values)]
    ranges.pop("ht", None)  # of polysemous codes, which are not trained here
    if "nprobe" in ranges:  # FAISS stops at half of the lists, or at none where there is one list
        ranges["nprobe"].append(int(faiss.extract_index_ivf(index).nlist))
    return list(ranges), list(ranges.values())
