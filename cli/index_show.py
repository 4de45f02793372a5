"""`matvit index info` and `verify`: what is there, and whether it is whole."""

from typing import Annotated

import typer

from cli import options
from cli.output import print_json, print_table, say
from cli.progress import progress


def info(index: options.IndexDir, json: options.Json = False) -> None:
    """Show what made an index and what is in it.

    Example: matvit index info -i photos.index
    """
    from indexes import Index

    opened = Index.open(index)

    from matvit.runtime.device import pick_device

    opened.use(str(pick_device("auto")))
    facts = opened.facts()
    if json:
        print_json(facts)
    else:
        print_table([{"": name, " ": str(value)} for name, value in facts.items()])


def verify(
    index: options.IndexDir,
    rows: Annotated[
        int, typer.Option(min=0, help="Also embed so many random images again, and compare.")
    ] = 0,
    model: options.ModelOverride = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Compare every byte of an index with what was written.

    The exit code is 1 if anything changed.

    Example: matvit index verify -i photos.index

    Example: matvit index verify -i photos.index --rows 100
    """
    from indexes import verify as problems_of

    with progress() as bar:
        problems = problems_of(index, progress=bar)
    answer: dict[str, object] = {}
    if rows and not problems:
        from retrieval.searcher import Searcher
        from retrieval.upkeep.reembed import reembed

        with progress() as bar:
            searcher = Searcher.open(index, model=model, device=device, dtype=dtype, progress=bar)
            again = reembed(searcher, rows, progress=bar)
        problems += [f"{key}: {reason}" for key, reason in again.failures]
        problems += [
            f"{key}: embeds to something else now (cosine {c:.3f})" for key, c in again.changed.items()
        ]
        answer["embedded_again"] = len(again.cosines)
        if again.cosines:
            key, cosine = again.worst
            answer |= {"worst_key": key, "worst_cosine": cosine}
            say(f"{len(again.cosines)} images embedded again: cosine at least {cosine:.6f} ({key})")
    if json:
        print_json({"sound": not problems, "problems": problems} | answer)
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    say(f"{index}: every file is as it was written")


COMMANDS = (info, verify)
