"""What there is to tell of an index."""

from collections.abc import Sequence
from typing import Any

from indexes.disk.manifest import Manifest
from indexes.disk.schema import Calibration, MeasuredCurve


def facts_of(
    manifest: Manifest, *, images: int, duplicates: int, kept_out: int, columns: Sequence[str], backend: str
) -> dict[str, Any]:
    """Name and value of every fact, in the order to read them in; None where there is nothing to say.

    Args:
        manifest: Of the index.
        images: That can be found.
        duplicates: Those of them that are the very bytes of an earlier one.
        kept_out: Images that were removed and are not to come back.
        columns: Of the rows.
        backend: What searches, and where.
    """
    kind, excludes = manifest.kind, manifest.excludes
    return {
        "images": images,
        "removed": manifest.removed,
        "kept out": kept_out,
        "not readable": manifest.files["failures.parquet"].rows,
        "exact duplicates": duplicates,
        "classes": len(manifest.classes),
        "columns": ", ".join(columns),
        "sources": ", ".join(manifest.sources),
        "key prefixes": ", ".join(f"{s}: {prefix}" for s, prefix in manifest.key_prefixes.items()) or None,
        "excluded": "; ".join(f"{s}: {', '.join(globs)}" for s, globs in excludes.items()) or None,
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
        "budget auto": None if manifest.calibration is None else _promise(manifest.calibration, images),
        "curve": _curve(manifest.curve) if manifest.curve and manifest.curve["cosines"] else None,
        "search": backend,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "created": manifest.created,
        "command": manifest.command,
    }


def _curve(curve: MeasuredCurve) -> str:
    cosines = curve["cosines"].values()
    return f"{len(cosines)} submodels, cosines of {min(cosines):.3f} and more, on {curve['images']} images"


def _promise(calibration: Calibration, images: int) -> str:
    promise = f"{calibration['submodel']}, to lose less than {100 * calibration['max_drop']:g} points"
    before = calibration["rows"]
    return promise + (f"; calibrated when there were {before} images" if before != images else "")
