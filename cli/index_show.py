"""`matvit index info` and `verify`: what is there, and whether it is whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import options
from cli.output import print_json, print_table, say
from cli.progress import progress

Index = Annotated[Path, typer.Argument(help="Index directory.", show_default=False)]


def info(index: Index, json: options.Json = False) -> None:
    """Show what made an index and what is in it.

    Example: matvit index info photos.index
    """
    from indexes import Index
    from matvit.device import pick_device

    opened = Index.open(index)
    manifest = opened.manifest
    kind = manifest.kind
    facts = {
        "images": len(opened),
        "removed": manifest.removed,
        "not readable": manifest.files["failures.parquet"].rows,
        "exact duplicates": opened.duplicates,
        "classes": len(manifest.classes),
        "columns": ", ".join(opened.rows.column_names),
        "sources": ", ".join(manifest.sources),
        "key prefixes": _prefixes(manifest.key_prefixes),
        "excluded": _excludes(manifest.excludes),
        "model": manifest.encoder.architecture,
        "weights sha256": manifest.encoder.weights_sha256,
        "checkpoint": manifest.checkpoint,
        "dimensions": manifest.encoder.embed_dim,
        "pooling": manifest.encoder.pooling,
        "projection": manifest.encoder.projection,
        "metric": manifest.metric,
        "kind": kind.factory,
        "parameters": kind.parameters,
        "rerank": kind.rerank,
        "recall": kind.recall,
        "query ms": kind.query_ms,
        "bytes a vector": round(kind.bytes_per_vector, 1),
        "budget auto": _auto(manifest.calibration, len(opened)),
        "search": opened.use(str(pick_device("auto"))),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "created": manifest.created,
        "command": manifest.command,
    }
    if json:
        print_json(facts)
    else:
        print_table([{"": name, " ": str(value)} for name, value in facts.items()])


def _prefixes(key_prefixes: Mapping[str, str]) -> str | None:
    return ", ".join(f"{source}: {prefix}" for source, prefix in key_prefixes.items()) or None


def _excludes(excludes: Mapping[str, Sequence[str]]) -> str | None:
    return "; ".join(f"{source}: {', '.join(globs)}" for source, globs in excludes.items()) or None


def _auto(calibration: Mapping[str, Any] | None, rows: int) -> str | None:
    if calibration is None:
        return None
    promise = f"{calibration['submodel']}, to lose less than {100 * calibration['max_drop']:g} points"
    before = calibration["rows"]
    return promise + (f"; calibrated when there were {before} images" if before != rows else "")


def verify(
    index: Index,
    rows: Annotated[int, typer.Option(min=0, help="Also embed so many random images again and compare.")] = 0,
    model: options.ModelOverride = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Compare every byte of an index with what was written. Exit code 1 if anything changed.

    Example: matvit index verify photos.index --rows 100
    """
    from indexes import verify as problems_of

    with progress() as bar:
        problems = problems_of(index, progress=bar)
    answer: dict[str, object] = {}
    if rows and not problems:
        from retrieval.reembed import reembed
        from retrieval.searcher import Searcher

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
