"""Directories that readers see whole or not at all: written beside their place, then renamed into it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """A new empty directory that takes the place of `directory` once the block has filled it.

    If the block raises, the old one stays and the new one is gone. Missing parents are made.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield staging
        for file in staging.iterdir():
            file.chmod(0o644)  # As other files are: safetensors and mkdtemp write for the owner alone.
            with file.open("rb") as written:
                os.fsync(written.fileno())
        staging.chmod(0o755)
        _sync(staging)
        _replace(staging, directory)
        _sync(directory.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def tidy(directory: Path) -> None:
    """Undo what a killed writer of `directory` left: bring the old one back, remove unfinished new ones.

    Only for a place that no other process writes to.
    """
    aside = _aside(directory)
    if aside.exists() and not directory.exists():
        aside.rename(directory)
    for left in directory.parent.glob(f".{directory.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}-replaced")


def _replace(new: Path, old: Path) -> None:
    """Put a finished directory in another's place.

    A directory cannot be renamed over one that is not empty, so the old one steps aside first: a crash in
    the instant between leaves it whole under the name ``.NAME-replaced``.
    """
    aside = _aside(old)
    if old.exists():
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        if aside.exists():
            aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
