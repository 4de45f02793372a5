"""What can go wrong with an index. Every message is one line: what is wrong and what to do."""


class IndexDamagedError(RuntimeError):
    """The index is missing, half written, damaged, or of a version that this program does not read."""


class IndexBusyError(RuntimeError):
    """Another process is writing this index."""


class IndexReplacedError(RuntimeError):
    """The index on disk is no longer the one that was opened."""


class PlanChangedError(RuntimeError):
    """Processes that share the work do not see the same images."""


class EmptyIndexError(RuntimeError):
    """Not a single image of the corpus could be embedded."""


class MissingFaissError(RuntimeError):
    """FAISS is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "FAISS is not installed: in the clone of matvit, pip install -e '.[cpu]' "
            "(or '.[gpu]' for NVIDIA GPUs)"
        )


class IndexExistsError(ValueError):
    """The directory to build into exists already."""


class IndexNameError(ValueError):
    """A name that an index cannot have."""


class WrongEncoderError(ValueError):
    """The index was made by another encoder than the one given."""


class UnknownKeyError(ValueError):
    """No row of the index has the key."""


class DuplicateKeyError(ValueError):
    """Two images of a corpus have the same key."""


class KeyPrefixError(ValueError):
    """What keys cannot begin with."""


class RelocationError(ValueError):
    """The files of an index are not where they are said to be now."""


class FilterError(ValueError):
    """A filter expression that cannot be understood."""


class IndexKindError(ValueError):
    """An index kind that FAISS does not know or that does not fit these vectors."""


class FaissConflictError(RuntimeError):
    """Two builds of FAISS are installed over each other."""
