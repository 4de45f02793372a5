"""`matvit plan --calibrate`: what the budget `auto` of an index shall mean."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.models import fetched_for
from cli.output import percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from retrieval.calibrate import Calibration


def calibrate(
    index: Path,
    queries: str,
    *,
    model: str | None,
    max_drop: float,
    held_out: float,
    device: str,
    dtype: str,
    json: bool,
) -> None:
    """Find the cheapest submodel that can be promised, and keep it with the index.

    Args:
        index: The index directory.
        queries: Labelled images, as commands are given them.
        model: What `-m` says.
        max_drop: In points of 1-NN accuracy.
        held_out: Share of the queries that only check.
        device: As everywhere.
        dtype: As everywhere.
        json: Print JSON.
    """
    from retrieval.calibrate import calibrate as run
    from retrieval.calibrate import keep
    from retrieval.images import open_source
    from retrieval.promise import queries_needed
    from retrieval.searcher import Searcher

    if not 0 < max_drop < 100:
        raise typer.BadParameter(f"--max-drop {max_drop:g}: write points of accuracy, such as 0.5")
    source = open_source(queries)
    searcher = Searcher.open(index, model=fetched_for(index, model), device=device, dtype=dtype)
    with progress("Calibrating", source.size) as advance:
        found = run(searcher, source, max_drop=max_drop / 100, held_out=held_out, on_images=advance)
    fewest = queries_needed(max_drop / 100)
    for failure in found.failures[:20]:
        say(f"not readable: {failure.key}: {failure.reason}")
    if found.alone:
        say(f"{found.alone} queries of whose class the corpus has no other image are left out")
    if found.queries < (fewest or 0):
        say(
            f"{found.queries} queries are too few to promise a drop below {max_drop:g} points: at least "
            f"{fewest} are needed, or a larger --max-drop"
        )
    keep(found, index)
    if json:
        tested = [
            {"submodel": str(s), "losses": c.losses, "gains": c.gains, "p_value": c.p_value}
            for s, c in found.comparisons
        ]
        print_json(
            found.record()
            | {"alone": found.alone, "tested": tested, "queries_needed_for_the_next": found.needed}
        )
    else:
        _show(found)


def _show(found: "Calibration") -> None:
    if found.comparisons:
        print_table(
            [
                {
                    "submodel": str(submodel),
                    "drop": f"{100 * each.drop:+.2f}",
                    "only XL right": each.losses,
                    "only it right": each.gains,
                    "p": f"{each.p_value:.4f}",
                    "": "promised" if each.p_value <= 1 - found.confidence else "not promised",
                }
                for submodel, each in found.comparisons
            ]
        )
    if found.share_of_full == 1:
        say(f"auto is XL: {found.queries} queries can promise nothing cheaper")
    else:
        say(
            f"auto is {found.submodel}, {percent(found.share_of_full)} of XL's MACs: chosen by "
            f"{found.queries} queries so that, {found.confidence:.0%} of the time, 1-NN accuracy drops by "
            f"less than {100 * found.max_drop:g} points"
        )
    if found.needed:
        say(f"the next cheaper one would need about {found.needed} queries, if they came out like these")
    if found.checked:
        low, high = found.checked.interval
        say(
            f"{found.check_queries} other queries saw a drop of {100 * found.checked.value:.2f} points "
            f"({100 * low:.2f} to {100 * high:.2f})"
        )
