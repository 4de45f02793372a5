"""Image corpora on disk: vectors, keyed rows, a FAISS file and the manifest that seals them.

Knows nothing of models. Names are resolved on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexes.errors import (
        DuplicateKeyError,
        EmptyIndexError,
        FaissConflictError,
        FilterError,
        IndexBusyError,
        IndexDamagedError,
        IndexExistsError,
        IndexKindError,
        IndexNameError,
        IndexReplacedError,
        KeyPrefixError,
        MissingFaissError,
        PlanChangedError,
        RelocationError,
        UnknownKeyError,
        WrongEncoderError,
    )
    from indexes.index import Index
    from indexes.manifest import EncoderIdentity, FileEntry, Manifest
    from indexes.store import IndexWriter
    from indexes.verification import verify

__all__ = [
    "DuplicateKeyError",
    "EmptyIndexError",
    "EncoderIdentity",
    "FaissConflictError",
    "FileEntry",
    "FilterError",
    "Index",
    "IndexBusyError",
    "IndexDamagedError",
    "IndexExistsError",
    "IndexKindError",
    "IndexNameError",
    "IndexReplacedError",
    "IndexWriter",
    "KeyPrefixError",
    "Manifest",
    "MissingFaissError",
    "PlanChangedError",
    "RelocationError",
    "UnknownKeyError",
    "WrongEncoderError",
    "verify",
]

_HOME = {
    "EncoderIdentity": "manifest",
    "FileEntry": "manifest",
    "Index": "index",
    "IndexWriter": "store",
    "Manifest": "manifest",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"indexes.{_HOME.get(name, 'errors')}"), name)
