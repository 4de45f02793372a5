"""`matvit index build` and `add`: images in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.early import check_images, check_index, check_model
from cli.output import command_line, print_json, say
from cli.progress import progress
from matvit.weights.known_models import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexes import Manifest
    from retrieval.upkeep.add import Added

_WHICH_LABELS = {
    True: "labels are the names of their top-level folders; --labels none leaves them out",
    False: "they have no labels; --labels folders takes the names of their top-level folders",
}


def build(
    images: options.Images,
    model: options.Model = DEFAULT,
    output: options.NewIndex = None,
    key_prefix: options.KeyPrefix = None,
    exclude: options.Exclude = None,
    labels: options.Labels = options.LabelsFrom.AUTO,
    photo_columns: Annotated[
        bool,
        typer.Option(
            help="Keep what image files tell, or not: width, height, date, camera, latitude, longitude."
        ),
    ] = True,
    factory: options.Factory = "auto",
    rerank: options.Rerank = None,
    max_memory: options.MaxMemory = None,
    max_query_ms: options.MaxQueryMs = None,
    recall: options.Recall = 0.95,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Embed images with the full encoder, and index them.

    Images that cannot be read are counted, are kept with their reasons in failures.parquet, and stop nothing.
    A build that was stopped goes on when the same command is run again. Under torchrun, processes share the
    work.

    Example: matvit index build photos/

    Example: matvit index build photos/ -m runs/x/checkpoint -o x.index

    Example: matvit index build 'x-{000..999}.tar' -o x.index --max-memory 4G
    """
    from indexes.disk.manifest import read_manifest
    from indexes.disk.staging import Staging
    from retrieval.sources.open_images import open_source

    kind = options.kind_options(factory, rerank, max_memory, max_query_ms, recall)
    out = output or _named_after(images)
    Staging(out).check_place()
    check_model(model)
    source = open_source(images, excludes=exclude or (), labels=labels.wanted)

    from matvit.runtime.processes import joined
    from retrieval.encoding.encoder import Encoder
    from retrieval.upkeep.embed import build_index

    with joined(device) as (processes, torch_device), progress(shown=processes.is_first) as bar:
        if processes.is_first:
            _introduce(model)
        encoder = Encoder.open(model, device=str(torch_device), dtype=dtype, progress=bar)
        built = build_index(
            source,
            encoder,
            out,
            key_prefix=key_prefix,
            photos=photo_columns,
            options=kind,
            command=command_line(),
            batch_size=batch_size,
            workers=workers,
            processes=processes,
            progress=bar,
        )
    if processes.is_first:
        _tell_failures(out, built.failures)
        manifest = read_manifest(out)
        say(f"{manifest.ntotal} images indexed, {len(built.failures)} not readable: {out}")
        if source.labelled is not None and labels is options.LabelsFrom.AUTO:
            say(_WHICH_LABELS[source.labelled])
        if manifest.kind.recall < 1:
            say(f"{manifest.kind.factory} finds {manifest.kind.recall:.1%} of the true 10 nearest")
        if json:
            _print_counts(out, manifest)


def add(
    images: options.Images,
    index: options.IndexDir,
    model: options.ModelOverride = None,
    key_prefix: options.KeyPrefix = None,
    exclude: options.Exclude = None,
    labels: options.Labels = options.LabelsFrom.AUTO,
    check_content: options.CheckContent = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Bring back images that `matvit index remove` took.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Remove the rows of files that are gone from the folder IMAGES, or excluded."
        ),
    ] = False,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Add to an index the images that are new or changed.

    What changed takes the place of what it was. Run it every night on the same folder. Only the weights that
    made the index can add to it. Images that the index has from elsewhere are known by their bytes and not
    embedded again: rows follow files that moved. What `matvit index remove` took stays removed, unless the
    file holds another picture by now.

    Example: matvit index add photos/ -i photos.index

    Example: matvit index add photos/ -i photos.index --prune
    """
    check_index(index)
    check_model(model)
    check_images(images)

    from indexes.disk.manifest import read_manifest
    from matvit.runtime.processes import joined
    from retrieval.upkeep.add import add_to_index
    from retrieval.upkeep.add import prune as remove_rows

    with joined(device) as (processes, torch_device), progress(shown=processes.is_first) as bar:
        added = add_to_index(
            index,
            images,
            model=model,
            key_prefix=key_prefix,
            excludes=exclude or (),
            labels=labels.wanted,
            check_content=check_content,
            restore_removed=restore,
            command=command_line(),
            batch_size=batch_size,
            workers=workers,
            device=str(torch_device),
            dtype=dtype,
            processes=processes,
            progress=bar,
        )
    if not processes.is_first:
        return
    _tell_added(index, added)
    _tell_doubts(added)
    for files, why in ((added.gone, "gone"), (added.excluded, "excluded")):
        if files and prune:
            count = remove_rows(index, files, command=command_line())
            say(f"{count} rows removed whose files are {why}")
        elif files:
            say(f"{len(files)} files are {why}: --prune removes their rows")
    if json:
        built = added.built
        _print_counts(
            index,
            read_manifest(index),
            new=built.new,
            changed=built.changed,
            moved=built.moved,
            not_readable=len(built.failures),
            kept_out=added.kept_out,
            restored=added.restored,
        )


def _named_after(images: str) -> Path:
    """Where the index of a source goes that nobody named."""
    name = Path(images).absolute().name
    if not Path(images).exists() or not name:
        raise typer.BadParameter("say with -o where the index goes")
    return Path(f"{Path(name).stem if Path(images).is_file() else name}.index")


def _introduce(model: str) -> None:
    """Say what will embed the images, and what of it is downloaded first."""
    from matvit.weights.known_models import known_model
    from matvit.weights.model_names import is_here

    if known := known_model(model):
        first = "" if is_here(model) else f"; {known.megabytes} MB are downloaded first"
        say(f"{known}{first} (`matvit models` lists others)")


def _tell_failures(index: Path, failures: "Sequence[tuple[str, str]]") -> None:
    for key, reason in failures[:20]:
        say(f"not indexed: {key}: {reason}")
    if len(failures) > 20:
        say(f"... and {len(failures) - 20} more in {index / 'failures.parquet'}")


def _tell_added(index: Path, added: "Added") -> None:
    from indexes.disk.manifest import read_manifest

    built = added.built
    _tell_failures(index, built.failures)
    counts = {
        "new": built.new,
        "changed": built.changed,
        "moved": built.moved,
        "not readable": len(built.failures),
    }
    if told := [f"{count} {what}" for what, count in counts.items() if count]:
        say(f"{', '.join(told)}; {_images_in(read_manifest(index))} images now: {index}")
    if added.restored:
        say(f"{added.restored} images that had been removed are back")
    if added.kept_out:
        say(f"{added.kept_out} images were removed earlier and stay so: --restore brings them back")


def _tell_doubts(added: "Added") -> None:
    if added.doubts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in added.doubts.most_common(5))
        say(f"{added.doubts.total()} files may be gone or not, and keep their rows: {reasons}")
    for source, count in added.claims.items():
        say(f"{count} files are excluded, but {source} may name them and cannot be read: their rows stay")


def _print_counts(index: Path, manifest: "Manifest", **this_run: int) -> None:
    failures = manifest.files["failures.parquet"].rows
    print_json({"index": str(index), "indexed": _images_in(manifest), "failures": failures} | this_run)


def _images_in(manifest: "Manifest") -> int:
    return manifest.ntotal - manifest.removed


COMMANDS = (build, add)
