"""One image file as a source, and whatever path of a row no other kind knows."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.sources.archives import why_packed
from retrieval.sources.local_paths import absolute_path, mode_at, real_folder
from retrieval.sources.source import ImageSource, Source

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.sample import Known


class FileSource(Source):
    """A file that is named like a picture, or begins like one."""

    help = "one image file"
    summary = "an image file"

    def recognises(self, text: str) -> bool:
        """Whether it is there, and no packed archive."""
        mode = mode_at(text)
        if not mode:
            return False
        from retrieval.sources.folder_walk import begins_like_image
        from retrieval.sources.formats import is_image_name

        path, is_regular = Path(text), stat.S_ISREG(mode)
        return is_image_name(path.name) or (is_regular and not why_packed(text) and begins_like_image(path))

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """A part of one image, whose key is the file's name."""
        from retrieval.sources.folder_walk import file_parts, unknown_keys

        path = absolute_path(text)
        root = real_folder(path.parent)
        parts = file_parts(root, unknown_keys(root, [path.name], known))
        return ImageSource(text, self.location(text), root, parts)

    def holds(self, path: str) -> bool:
        """Always: what is in no other file is a file."""
        return True
