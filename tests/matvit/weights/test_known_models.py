"""What is said of encoders before they are downloaded is what timm and their own shapes say."""

import subprocess
import sys

import pytest
import timm

import matvit
from matvit.vision.embedding import embed_only
from matvit.weights.known_models import DEFAULT, KNOWN_MODELS, KnownModel, known_model, sized
from matvit.weights.published import PUBLISHED

SHAPES = {
    "matvit-b16-in1k": "matvit_base_patch16_224",
    "matvit-l16-in21k-in1k": "matvit_large_patch16_224",
}


@pytest.mark.parametrize("known", KNOWN_MODELS, ids=lambda known: known.name)
def test_sizes_costs_and_licences(known: KnownModel) -> None:
    model = matvit.load(SHAPES.get(known.name, known.name), weights=False)
    assert model.num_classes == 0 or known.name not in SHAPES or model.reset_classifier(0) is None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    embed_only(model)
    assert known.gmacs == pytest.approx(model.cost(model.space.full).gmacs, abs=0.006)
    if known.repository is None:
        assert known.name in PUBLISHED
        assert known.mparams == pytest.approx(parameters / 1e6, abs=0.06)
    else:
        published = timm.get_pretrained_cfg(sized(known.name)[0])
        assert (known.repository, known.licence) == (published.hf_hub_id, published.license)
        assert known.mparams == pytest.approx(parameters / 1e6, abs=0.06)
        assert known.megabytes == pytest.approx(4 * parameters / 1e6, abs=1)


def test_the_default_is_one_of_them_and_names_are_found() -> None:
    assert known_model(DEFAULT) is not None
    assert len({model.name for model in KNOWN_MODELS}) == len(KNOWN_MODELS)
    assert known_model("resnet50") is None


def test_they_are_known_without_torch_or_timm() -> None:
    code = "import sys, matvit.weights.known_models; print({'torch', 'timm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
