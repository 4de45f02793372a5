"""Folders as a source: of images, flat or with one subfolder a class, or of shards."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import ImageSourceError
from retrieval.sources.archives import is_packed_tar, why_packed
from retrieval.sources.local_paths import absolute_path, mode_at, real_folder
from retrieval.sources.sample import printable
from retrieval.sources.shard_source import ShardSource
from retrieval.sources.source import ImageSource, Source

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.labelled_images import LabelledImages
    from retrieval.sources.sample import Known

HELD_OUT = ("val", "validation", "test")
"""Beside a folder ``train``: the first of these that is there holds the images held out."""

_SHARDS = ShardSource()


class FolderSource(Source):
    """A folder, walked: see `retrieval.sources.folder_walk`. Its rows are of image files or of shards."""

    help = "a folder of images (flat, or one subfolder a class)"
    summary = "a folder of images or of .tar shards"
    takes_excludes = True

    def recognises(self, text: str) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(mode_at(text))

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """Parts of images, or a part a shard, but never both: which of them was meant?"""
        from retrieval.sources.folder_walk import are_classes, file_parts, find_images, unknown_keys
        from retrieval.sources.shards import shard_parts

        folder = real_folder(absolute_path(text))
        found = find_images(folder, excludes)
        names = [name for name in _names_in(folder) if not excludes(name)]
        shards = _shards_among(folder, names)
        if found.keys and shards:
            raise ImageSourceError(
                f"{folder} holds both images and .tar shards: name the shards as '{folder}/*.tar', or move "
                "them"
            )
        packed = filter(is_packed_tar if shards else why_packed, () if found.keys else names)
        if packed_file := next((name for name in packed if not _is_folder(folder / name)), None):
            reason = why_packed(packed_file)
            raise ImageSourceError(f"{printable(str(folder / packed_file))}: {reason}, or exclude it")
        if not (found.keys or found.closed or shards):
            nothing = "no images and no .tar shards in this folder"
            if found.excluded:
                nothing += f", with {found.excluded} files and folders excluded"
            raise ImageSourceError(f"{folder}: {nothing}; name one that has some")
        keys = sorted([*unknown_keys(folder, found.keys, known), *found.closed])
        return ImageSource(
            text,
            self.location(text),
            folder,
            file_parts(folder, keys, found.closed) + shard_parts(shards, known),
            folder=str(folder),
            excludes=excludes.globs,
            excluded=found.excluded,
            labelled=are_classes(found.keys) if any("/" in key for key in found.keys) else None,
        )

    def labelled(
        self, text: str, mode: str, class_to_idx: Mapping[str, int] | None
    ) -> "LabelledImages | None":
        """Images in class folders, or of shards."""
        from matvit.errors import TrainingError
        from retrieval.sources.folder_walk import find_images
        from retrieval.sources.labelled_files import labelled_files
        from retrieval.sources.labelled_shards import labelled_shards

        folder = Path(text)
        found = find_images(folder)
        if found.closed:  # its images would be missing, perhaps with a whole class
            closed, reason = min(found.closed.items())
            raise TrainingError(f"{text}/{closed}: {reason}; make it readable, or remove it")
        keys = [key for key in found.keys if "/" in key]
        shards = _shards_among(folder, _names_in(folder))
        if keys and shards:
            raise TrainingError(
                f"{text} holds both images in class folders and shards: move one kind elsewhere"
            )
        if shards:
            return labelled_shards(shards, text, mode, class_to_idx)
        return labelled_files(folder, keys, text, mode, class_to_idx)

    def splits(self, text: str) -> tuple[str, str | None]:
        """``train`` in the folder and what is held out beside it, or the whole folder."""
        folder = Path(text)
        if not (folder / "train").is_dir():
            return text, None
        held_out = (str(folder / name) for name in HELD_OUT if (folder / name).is_dir())
        return str(folder / "train"), next(held_out, None)


def _names_in(folder: Path) -> list[str]:
    from retrieval.sources.excludes import is_passed_over

    return sorted(path.name for path in folder.iterdir() if not is_passed_over(path.name, is_folder=False))


def _shards_among(folder: Path, names: list[str]) -> list[Path]:
    shards = (folder / name for name in names if _SHARDS.holds(name))
    return [shard for shard in shards if not _is_folder(shard)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # opening it will fail and say why
        return False
