"""Images in, embeddings, results and measurements out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.encoding.encoder import Encoder
    from retrieval.hits import Hit, Hits
    from retrieval.learning.elasticize import elasticize
    from retrieval.learning.train import train
    from retrieval.measuring.calibrate import calibrate
    from retrieval.measuring.evaluate import evaluate
    from retrieval.measuring.plan import plan
    from retrieval.searcher import Searcher
    from retrieval.sources.open_images import open_source
    from retrieval.upkeep.add import add_to_index
    from retrieval.upkeep.embed import build_index

_HOME = {
    "Encoder": "encoding.encoder",
    "Hit": "hits",
    "Hits": "hits",
    "Searcher": "searcher",
    "add_to_index": "upkeep.add",
    "build_index": "upkeep.embed",
    "calibrate": "measuring.calibrate",
    "elasticize": "learning.elasticize",
    "evaluate": "measuring.evaluate",
    "open_source": "sources.open_images",
    "plan": "measuring.plan",
    "train": "learning.train",
}
__all__ = [
    "Encoder",
    "Hit",
    "Hits",
    "Searcher",
    "add_to_index",
    "build_index",
    "calibrate",
    "elasticize",
    "evaluate",
    "open_source",
    "plan",
    "train",
]


def __getattr__(name: str) -> Any:
    # Resolved on first use: a command that only reads an index must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"retrieval.{_HOME[name]}"), name)
