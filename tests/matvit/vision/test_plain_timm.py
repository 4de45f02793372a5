"""What timm says of a file is about the file; a fault of our own code comes out as what it is."""

import pytest
import torch

import matvit
from matvit import Elastic
from matvit.errors import NonsenseError
from matvit.training import from_recipe as prepare
from matvit.training import recipe
from matvit.vision.plain_timm import asked
from matvit.weights import checkpoint, model_names

FAULTS = [AttributeError, TypeError, ValueError, LookupError, RuntimeError, AssertionError, ZeroDivisionError]


class FaultError(Exception):
    """Never raised as such: its subclasses are faults of a kind that libraries raise, too."""


@pytest.fixture(params=FAULTS, ids=lambda kind: kind.__name__)
def fault(request):
    """A fault of our own, of each kind that is taken for nonsense where a library raises it."""

    class OwnFaultError(FaultError, request.param):
        pass

    return OwnFaultError


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_library_raises_becomes_one_line(kind) -> None:
    with pytest.raises(NonsenseError, match=r"^too wide$"), asked():
        raise kind("too wide\nmuch")
    with pytest.raises(NonsenseError, match=f"^{kind.__name__}$"), asked():
        raise kind


def test_the_line_is_the_first_that_says_something() -> None:
    with pytest.raises(NonsenseError, match=r"^size mismatch for head$"), asked():
        raise RuntimeError("Error(s) in loading state_dict for ViT:\n\tsize mismatch for head\n\tand more")
    with pytest.raises(NonsenseError, match=r"^one$"), asked():
        raise AssertionError("\n one\ntwo\n")


@pytest.mark.parametrize("kind", [OSError, MemoryError, KeyboardInterrupt])
def test_what_is_no_matter_of_the_file_passes(kind) -> None:
    with pytest.raises(kind), asked():
        raise kind


def breaks(monkeypatch, owner, name, fault):
    def broken(*_, **__):
        raise fault("ours")

    monkeypatch.setattr(owner, name, broken)


# The kind: every place where timm or torch are asked for what a file says. Our own code runs around each.
@pytest.mark.parametrize(
    "owner, name",
    [
        (Elastic, "_nest"),
        (checkpoint, "check_arguments"),
        (checkpoint, "elastic"),
        (checkpoint, "_in_keys_of"),
        (checkpoint, "plain_model"),
    ],
)
def test_faults_while_a_checkpoint_is_read_come_out(make_tiny, tmp_path, monkeypatch, fault, owner, name):
    matvit.save(make_tiny(), tmp_path / "saved")
    breaks(monkeypatch, owner, name, fault)
    with pytest.raises(fault, match="ours"):
        matvit.load(tmp_path / "saved")


@pytest.mark.parametrize(
    "owner, name", [(Elastic, "_nest"), (model_names, "elastic"), (model_names, "plain_model")]
)
@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "matvit_tiny_patch16_224"])
def test_faults_while_a_name_is_looked_up_come_out(monkeypatch, fault, owner, name, model):
    breaks(monkeypatch, owner, name, fault)
    with pytest.raises(fault, match="ours"):
        matvit.load(model, weights=False)


@pytest.mark.parametrize(
    "owner, name",
    [(Elastic, "_nest"), (prepare, "check_arguments"), (prepare, "elastic"), (prepare, "training_transform")],
)
def test_faults_while_a_recipe_is_built_come_out(monkeypatch, fault, owner, name):
    settings = recipe.read(recipe.find("digits"))
    breaks(monkeypatch, owner, name, fault)
    with pytest.raises(fault, match="ours"):
        prepare.transform(settings, prepare.build(settings, num_classes=10))


def test_a_model_of_a_recipe_is_the_one_that_its_name_makes() -> None:
    settings = recipe.read(recipe.find("digits"))
    built = prepare.build(settings, num_classes=10)
    assert type(built) is matvit.MatViT
    assert built.pretrained_cfg["architecture"] == settings.architecture
    assert not built.pretrained_cfg.get("hf_hub_id")
    again = prepare.build(settings, num_classes=10)
    pairs = zip(built.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
