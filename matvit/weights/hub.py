"""The Hugging Face hub: what was downloaded once is taken from its cache; else it must answer at once.

Left alone, its library asks for news of every file at every use, and tries for half a minute where nothing
answers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from huggingface_hub import constants, get_session, try_to_load_from_cache

from matvit.errors import CheckpointError

_OFFLINE = RLock()
_SECONDS = 5
"""So long the hub may take to answer at all."""


def cached(repository: str, file: str) -> Path | None:
    """Where a file of a repository, or of `repository@revision`, is in the hub's cache."""
    repository, _, revision = repository.partition("@")
    try:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
    except ValueError:  # no name that a repository could have
        return None
    return Path(found) if isinstance(found, str) else None


@contextmanager
def from_cache() -> Iterator[None]:
    """Ask nobody: the hub's library then takes what is in its cache."""
    with _OFFLINE:  # Of two threads, the later would else restore what the earlier had set.
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def check_reached(name: str) -> None:
    """Make sure that the hub answers before something is downloaded from it.

    Raises:
        CheckpointError: It does not.
    """
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # of requests or of httpx, by the version of the hub's library
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot download {name}: no connection to {constants.ENDPOINT} ({reason})"
        ) from error
