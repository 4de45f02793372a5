"""What can go wrong with an index. Every message is one line: what is wrong and what to do."""


class IndexDamagedError(RuntimeError):
    """The index is missing, half written, damaged, or of a version that this program does not read."""


class IndexBusyError(RuntimeError):
    """Another process is writing this index."""


class EmptyIndexError(RuntimeError):
    """Not a single image of the corpus could be embedded."""


class MissingFaissError(RuntimeError):
    """FAISS is not installed."""

    def __init__(self) -> None:
        super().__init__(
            'FAISS is not installed: run pip install "matvit[cpu]" (or "matvit[gpu]" for NVIDIA GPUs)'
        )


class IndexExistsError(ValueError):
    """The directory to build into exists already."""


class IndexNameError(ValueError):
    """A name that an index cannot have."""


class WrongEncoderError(ValueError):
    """The index was made by another encoder than the one given."""


class DuplicateKeyError(ValueError):
    """Two images of a corpus have the same key."""


class FaissConflictError(RuntimeError):
    """Two builds of FAISS are installed over each other."""
