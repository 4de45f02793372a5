"""Image corpora on disk: vectors, keyed rows, a FAISS file and the manifest that seals them.

Knows nothing of models. Names are resolved on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexes.directory.index import Index
    from indexes.directory.verify import verify
    from indexes.directory.writer import IndexWriter
    from indexes.disk.manifest import EncoderIdentity, FileEntry, Manifest
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
    from indexes.store import Entry, Found, Store, StoreWriter

__all__ = [
    "DuplicateKeyError",
    "EmptyIndexError",
    "EncoderIdentity",
    "Entry",
    "FaissConflictError",
    "FileEntry",
    "FilterError",
    "Found",
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
    "Store",
    "StoreWriter",
    "UnknownKeyError",
    "WrongEncoderError",
    "verify",
]

_HOME = {
    "EncoderIdentity": "disk.manifest",
    "Entry": "store",
    "FileEntry": "disk.manifest",
    "Found": "store",
    "Index": "directory.index",
    "IndexWriter": "directory.writer",
    "Manifest": "disk.manifest",
    "Store": "store",
    "StoreWriter": "store",
    "verify": "directory.verify",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"indexes.{_HOME.get(name, 'errors')}"), name)
