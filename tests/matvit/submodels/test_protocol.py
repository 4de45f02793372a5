"""The encoder as others see it: every elastic model is one."""

from matvit import ElasticEncoder
from matvit.submodels.protocol import Patches


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def test_every_elastic_model_has_all_that_the_protocol_names(twins):
    assert {"space", "cost", "extract", "parameters", "in_chans"} <= members(ElasticEncoder)
    assert [name for name in members(ElasticEncoder) if not hasattr(twins.model, name)] == []
    assert callable(twins.model)


def test_every_stem_says_how_it_cuts_an_image(twins):
    assert members(Patches) == {"img_size", "patch_size"}
    for name in members(Patches):
        height, width = getattr(twins.model.patch_embed, name)
        assert min(height, width) > 0
