"""timm's own model, eager: what every other engine is compared with."""

from torch import Tensor

from matvit.engines.engine import Engine, Run
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel


class TimmEager(Engine):
    """The full encoder as timm has it, whatever the submodel."""

    name = "timm"
    title = "timm eager"

    def build(self, encoder: ElasticEncoder, submodel: Submodel, images: Tensor) -> Run:
        """See `Engine.build`."""
        plain: Run = encoder.extract(encoder.space.full, copy=False)
        return plain
