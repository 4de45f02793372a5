"""Lists of image files as a source."""

from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.sources.local_paths import absolute_path, mode_at, real_folder
from retrieval.sources.source import ImageSource, Source

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.sample import Known


class ListSource(Source):
    """Files of paths: see `retrieval.sources.lists`."""

    help = (
        "a list of image files (x.parquet, x.csv, x.tsv or x.jsonl with a column path, or x.txt with one "
        "path a line, or path and label)"
    )
    summary = "a list of images as .parquet, .csv, .tsv, .jsonl, .txt or .lst"

    def recognises(self, text: str) -> bool:
        """Whether it is there and ends like a list."""
        if not mode_at(text):
            return False
        from retrieval.sources.lists import is_list_name

        return is_list_name(Path(text).name)

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """Parts in the list's own order."""
        from retrieval.sources.lists import list_parts

        path = absolute_path(text)
        parts = list_parts(real_folder(path.parent) / path.name, known)
        return ImageSource(text, self.location(text), path.with_suffix(""), parts)
