"""Images in, embeddings, results and measurements out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.embed import build_index
    from retrieval.encoder import Encoder
    from retrieval.images import open_source
    from retrieval.searcher import Hit, Hits, Searcher

_HOME = {
    "Encoder": "encoder",
    "Hit": "searcher",
    "Hits": "searcher",
    "Searcher": "searcher",
    "build_index": "embed",
    "open_source": "images",
}
__all__ = ["Encoder", "Hit", "Hits", "Searcher", "build_index", "open_source"]


def __getattr__(name: str) -> Any:
    # Resolved on first use: a command that only reads an index must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"retrieval.{_HOME[name]}"), name)
