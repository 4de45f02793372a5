"""The model that an index remembers, which commands take where nobody says `-m`."""

import shlex
from pathlib import Path

from indexes import Store
from indexes.disk.manifest import read_manifest
from indexes.disk.staging import restore as restore_index
from matvit.files.atomic import restore
from matvit.weights.model_names import is_here
from retrieval.errors import MissingModelError


def model_of(index: Store | str | Path) -> str:
    """The model that made a corpus, or an index that need not be opened: its directory, or its name.

    Raises:
        MissingModelError: It is no longer where it was, or is a name that would be downloaded.
        IndexDamagedError: There is no whole index.
    """
    if isinstance(index, str | Path):
        restore_index(Path(index))
        location, manifest = str(index), read_manifest(Path(index))
    else:
        location, manifest = str(index.location), index.manifest
    model = manifest.checkpoint
    restore(Path(model))
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise MissingModelError(f"the model of {location} is no longer at {model}: say with -m where it is")
    # An index may come from a stranger, who must not choose what this machine fetches, and from whom. What is
    # in the cache was asked for here before: taking it again runs nobody's code, pickles are never read, and
    # weights other than those that made the index are refused by their checksum. So an index that was built
    # here is searched without -m, by its maker's name for the model, and a stranger's name reveals no more
    # than that it is known here.
    if not is_here(model):
        raise MissingModelError(
            f"{location} was made with {model!r}, which would be downloaded, and an index may come from a "
            f"stranger: pass -m {shlex.quote(model)} if you want it"
        )
    return model
