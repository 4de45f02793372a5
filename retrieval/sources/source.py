"""What every kind of image sources can say: which texts name it, its images, and where one of them is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.labelled_images import LabelledImages
    from retrieval.sources.sample import Known, Labelled, Part


@dataclass(frozen=True)
class ImageSource:
    """Keyed images, in parts that can each be read on their own.

    Attributes:
        text: What the user wrote.
        location: What opens the source again from any working directory.
        named_after: What keys may begin with where others have them already: an absolute path, or a name.
        parts: The parts, in a fixed order. They can be pickled, so workers may read them.
        folder: The folder that is walked, without symlinks; None where the source is no folder.
        excludes: Globs of what was left out of a folder.
        excluded: How many files and folders they left out.
        labelled: Whether the label of an image file is its top-level folder; None where there are no such
            folders.
        note: What was decided of the keys, for the user to know.
    """

    text: str
    location: str
    named_after: Path
    parts: "tuple[Part, ...]"
    folder: str | None = None
    excludes: tuple[str, ...] = ()
    excluded: int = 0
    labelled: bool | None = None
    note: str | None = None

    @property
    def size(self) -> int | None:
        """Samples and failures in all parts; None where only reading tells."""
        sizes = [part.size for part in self.parts if part.size is not None]
        return sum(sizes) if len(sizes) == len(self.parts) else None

    def labels(self) -> "list[Labelled] | None":
        """Key and label of each image that may be there; None where only reading tells."""
        known = [part.labels for part in self.parts if part.labels is not None]
        return [each for labels in known for each in labels()] if len(known) == len(self.parts) else None


class Source(Protocol):
    """One kind of image sources: what a user may name, and what rows of an index then come from.

    A kind is a class in a file of its own that inherits from this one, and an instance of it in
    `retrieval.sources.all_sources.SOURCES`. It holds no state, and imports what is heavy where it reads, for
    the command line's help asks all of them. What is not overridden is as where every image is a file of its
    own.

    Attributes:
        help: What to write, as a part of the sentence that `--help` prints.
        summary: The same in few words, for the message about a text that names no source.
        endings: In lower case, of files that hold many images, whose keys begin with the file's name and a
            colon; the endings count in any case.
        takes_excludes: Whether globs may leave something out: see `retrieval.sources.excludes.Excludes`.
    """

    help: str
    summary: str
    endings: tuple[str, ...] = ()
    takes_excludes: bool = False

    # --- what a user writes ---

    def recognises(self, text: str) -> bool:
        """Whether a text that a user wrote names a source of this kind, be it whole or not.

        Raises:
            OSError: What lies there cannot be looked at.
        """

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """Find the images that a text which is recognised stands for, without reading any.

        Args:
            text: What the user wrote.
            known: Paths, as rows have them, to which of them to leave out.
            excludes: What else to leave out; none where the kind does not take any.

        Raises:
            ImageSourceError: It cannot be used, or holds no image.
            OSError: It cannot be read.
        """

    def location(self, text: str) -> str:
        """What opens a source of this kind again from any working directory."""
        return str(Path(text).absolute())

    # --- what rows of an index come from ---

    def holds(self, path: str) -> bool:
        """Whether images of rows with this path are for this kind to find."""
        return False

    def images(self, path: str) -> Iterator[tuple[str, bytes]]:
        """All images that lie at the path of a row: their own keys, and their encoded bytes.

        Raises:
            ImageSourceError: They are no longer there, or cannot be read.
            UnreadableImageError: As above, of a path that is one image.
        """
        from retrieval.sources.file_bytes import read_regular

        yield "", read_regular(Path(path))

    def own_key(self, path: str, key: str) -> str:
        """The key by which the path of a row knows its image; empty where it is that image.

        Args:
            path: Of the row.
            key: Of the row, which an index may have put a prefix before.
        """
        return ""

    def image_location(self, path: str, key: str) -> str:
        """Where the image of a row is, for a person."""
        return path

    # --- what training reads ---

    def labelled(
        self, text: str, mode: str, class_to_idx: Mapping[str, int] | None
    ) -> "LabelledImages | None":
        """The labelled images of a source by number: see `retrieval.sources.labelled.open_labelled`.

        Returns:
            None where training does not read this kind.
        """
        return None

    def splits(self, text: str) -> tuple[str, str | None]:
        """What names the images of a source to train on, and those held out, if any are."""
        return text, None
