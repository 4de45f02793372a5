"""Submodels taught by the full encoder, which stays itself."""

import re
from copy import deepcopy
from math import inf, nan

import pytest
import torch

import matvit
from matvit.errors import RefitError, TrainingError
from matvit.refitting.distillation import Lessons, distil
from matvit.refitting.first_pass import elasticize


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    themes = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    return torch.einsum("bt,tchw->bchw", torch.randn(count, 6, generator=generator), themes) / 2


@pytest.fixture(scope="module", params=["augreg", "eva02 base"])
def refitted(request, make_architecture):
    plain = make_architecture(request.param)
    return plain, elasticize(plain, [pictures(24, 0)]).model


def cosine(model, submodel, images):
    with torch.no_grad():
        whole, part = (
            model.forward_head(model.forward_features(images, each), pre_logits=True)
            for each in (None, submodel)
        )
    return float(torch.nn.functional.cosine_similarity(whole, part).mean())


def test_submodels_come_closer_and_the_full_encoder_stays(refitted, caplog):
    caplog.set_level("INFO")
    plain, model = refitted
    images, before = pictures(16, 1), {name: t.clone() for name, t in model.refits.tensors.items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    steps = []
    taught = distil(
        model,
        pictures(96, 2),
        Lessons(epochs=4, batch_size=16),
        held_out=[images],
        progress=lambda *step: steps.append(step),
    )
    with torch.no_grad():
        assert torch.equal(taught(images), plain(images))
    for submodel in (*taught.space.uniforms()[:-1], taught.space.mixnmatch[1]):
        assert cosine(taught, submodel, images) > cosine(model, submodel, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.refits.tensors.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in taught.refits.tensors.values())
    assert steps[-1] == ("steps of distillation", 24, 24)
    told = [re.fullmatch(r"epoch (\d): .* held out: S (\S+), M \S+, L \S+", line) for line in caplog.messages]
    assert [int(epoch[1]) for epoch in told] == [1, 2, 3, 4]
    assert float(told[-1][2]) > float(told[0][2])
    assert model.get_classifier().out_features == taught.get_classifier().out_features == 5


def test_the_same_seed_teaches_the_same(refitted):
    _, model = refitted
    one, same, other = (
        distil(model, pictures(20, 2), Lessons(epochs=1, batch_size=8, seed=seed)).refits.tensors
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_what_cannot_be_taught(refitted):
    plain, model = refitted
    with pytest.raises(RefitError, match="only a refitted encoder"):
        distil(matvit.elastic(plain), pictures(4, 0), Lessons(epochs=1))
    with pytest.raises(RefitError, match="not finite: try a lower learning rate"):
        distil(model, pictures(4, 0), Lessons(epochs=9, learning_rate=1e38))
    with pytest.raises(RefitError, match="no images"):
        distil(model, torch.empty(0), Lessons(epochs=1))
    for wrong in ({}, {"epochs": 1, "minutes": 1}):
        with pytest.raises(ValueError, match="say how many epochs, or how many minutes"):
            Lessons(**wrong)
    for wrong in ({"epochs": -1}, {"minutes": -1}, {"minutes": inf}, {"minutes": nan}):
        with pytest.raises(ValueError, match="must be at least 1, minutes above 0 and finite"):
            Lessons(**wrong)
    with pytest.raises(ValueError, match="must be at least 1"):
        Lessons(epochs=1, batch_size=0)


class StoppedError(Exception):
    """As a kill at a step."""


def stop_at(wanted):
    def progress(what, done, total):
        if done == wanted and what.startswith("steps"):
            raise StoppedError

    return progress


@pytest.mark.parametrize("stop", [3, 7])
def test_what_was_stopped_goes_on_to_the_same_end(refitted, tmp_path, monkeypatch, stop, caplog):
    caplog.set_level("INFO")
    _, model = refitted
    monkeypatch.setattr("matvit.refitting.distillation.SAVE_SECONDS", 0)
    lessons = Lessons(epochs=4, batch_size=8)
    whole = distil(model, pictures(20, 2), lessons).refits.tensors
    steps = []
    with pytest.raises(StoppedError):
        distil(model, pictures(20, 2), lessons, kept=tmp_path / "kept", progress=stop_at(stop))
    again = distil(
        model,
        pictures(20, 2),
        lessons,
        kept=tmp_path / "kept",
        progress=lambda what, done, total: steps.append((what, done, total)),
    )
    assert f"{tmp_path / 'kept'}: going on after {stop - 1} steps" in caplog.messages
    embedded = ("images embedded by the full encoder", 20, 20)
    assert steps == [embedded, *(("steps of distillation", step, 8) for step in range(stop, 9))]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.refits.tensors.items())


@pytest.mark.parametrize("other", ["images", "lessons", "model"])
def test_what_is_kept_of_other_lessons_is_not_lost(refitted, tmp_path, other):
    plain, model = refitted
    kept, lessons = tmp_path / "kept", Lessons(epochs=1, batch_size=8)
    distil(model, pictures(20, 2), lessons, kept=kept)
    before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    changed = deepcopy(plain)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    one_other = {
        "images": lambda: (model, pictures(20, 3), lessons),
        "lessons": lambda: (model, pictures(20, 2), Lessons(epochs=1, batch_size=8, seed=1)),
        "model": lambda: (elasticize(changed, [pictures(24, 0)]).model, pictures(20, 2), lessons),
    }[other]()
    with pytest.raises(TrainingError, match="keeps lessons of another encoder, of other images or options"):
        distil(*one_other, kept=kept)
    assert {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()} == before


def test_a_kill_while_saving_loses_nothing_and_leaves_nothing(refitted, tmp_path, caplog):
    caplog.set_level("INFO")
    _, model = refitted
    kept, lessons = tmp_path / "kept", Lessons(epochs=1, batch_size=8)
    distil(model, pictures(20, 2), lessons, kept=kept)
    (kept / "position").rename(kept / ".matvit-old-position")
    (kept / ".matvit-new-position").mkdir()
    distil(model, pictures(20, 2), lessons, kept=kept)
    assert f"{kept}: going on after 2 steps" in caplog.messages
    assert {file.name[:10] for file in kept.iterdir()} == {"position", "embeddings"}


def test_a_file_of_that_name_is_refused_before_the_work_and_left_alone(refitted, tmp_path):
    _, model = refitted
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(TrainingError, match=r"^cannot resume from .*kept: .*Not a directory"):
        distil(model, pictures(20, 2), Lessons(epochs=1, batch_size=8), kept=tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "mine"


def test_damaged_state_is_refused(refitted, tmp_path):
    _, model = refitted
    kept, lessons = tmp_path / "kept", Lessons(epochs=1, batch_size=8)
    distil(model, pictures(20, 2), lessons, kept=kept)
    (kept / "position" / "state.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match="cannot resume from"):
        distil(model, pictures(20, 2), lessons, kept=kept)
    for text in ("{", "{}", "[]"):
        (kept / "position" / "state.json").write_text(text)
        with pytest.raises(TrainingError, match="cannot resume from"):
            distil(model, pictures(20, 2), lessons, kept=kept)
    (kept / "position" / "photo.jpg").touch()
    (kept / "position" / "state.json").unlink()
    with pytest.raises(TrainingError, match="cannot resume from"):
        distil(model, pictures(20, 2), lessons, kept=kept)


@pytest.mark.parametrize("gone", [["state.json"], ["state.safetensors"], ["state.json", "state.safetensors"]])
def test_what_an_earlier_version_had_half_removed_stops_nothing(refitted, tmp_path, gone, caplog):
    caplog.set_level("INFO")
    _, model = refitted
    kept, lessons = tmp_path / "kept", Lessons(epochs=1, batch_size=8)
    distil(model, pictures(20, 2), lessons, kept=kept)
    for name in gone:
        (kept / "position" / name).unlink()
    distil(model, pictures(20, 2), lessons, kept=kept)
    assert "going on" not in caplog.text
    assert {file.name for file in (kept / "position").iterdir()} == {"state.json", "state.safetensors"}


def test_minutes_in_place_of_epochs(refitted, monkeypatch, caplog):
    caplog.set_level("INFO")
    _, model = refitted
    clock = iter(range(1000))
    monkeypatch.setattr("matvit.refitting.distillation.time.monotonic", lambda: 6 * next(clock))
    steps = []
    taught = distil(
        model,
        pictures(20, 2),
        Lessons(minutes=1, batch_size=1),
        progress=lambda what, done, total: steps.append((what, done, total)),
    )
    assert steps[:2] == [("images embedded by the full encoder", done, 20) for done in (0, 20)]
    del steps[:2]
    assert [what for what, _, _ in steps] == ["seconds of distillation"] * len(steps)
    assert [done for _, done, _ in steps][-1] == 60 == steps[-1][2]
    assert 1 < len(steps) < 11
    assert [line[:8] for line in caplog.messages] == ["epoch 1:"]  # though it is not over
    images = pictures(16, 1)
    assert cosine(taught, taught.space.uniforms()[0], images) > cosine(
        model, model.space.uniforms()[0], images
    )


# --- along a measured curve ---


CURVE = ("S@16px", "L@16px", "M~4+2+1", "XL~4+2+1")


@pytest.fixture(scope="module")
def measured(make_architecture):
    """A refitted encoder with a curve, whose cosines only put it in order."""
    model = matvit.elastic(elasticize(make_architecture("augreg"), [pictures(24, 0)]).model)
    ordered = sorted(map(model.submodel, CURVE), key=lambda each: model.cost(each).macs)
    model.measured = {submodel: 0.1 * n for n, submodel in enumerate(ordered)} | {model.space.full: 1.0}
    return model


def sized(images, submodel):
    return images if submodel.image_size is None else torch.nn.functional.interpolate(images, (16, 16))


def test_the_points_of_a_measured_curve_come_closer_and_the_rest_stays(measured, caplog):
    caplog.set_level("INFO")
    # Smooth ones, which are the same at half the size.
    images = pictures(112, 2)[..., ::8, ::8].repeat_interleave(8, -1).repeat_interleave(8, -2)
    learnt, checked = images[:96], images[96:]
    on_curve = measured.measured.keys() - {measured.space.full}
    taught = distil(measured, learnt, Lessons(epochs=8, batch_size=16), held_out=[checked])
    with torch.no_grad():
        assert torch.equal(taught(checked), measured(checked))
        full = measured.forward_head(measured.forward_features(checked), pre_logits=True)

        def close(model, submodel):
            tokens = model.cut(submodel).forward_features(sized(checked, submodel))
            return float(torch.nn.functional.cosine_similarity(full, tokens[:, 0]).mean())

        # What was refitted serves the granularities, too, none of which is on this curve.
        for submodel in (*on_curve, *measured.space.uniforms()[:-1]):
            assert close(taught, submodel) > close(measured, submodel)
    assert set(taught.tuned.numbers) == on_curve
    assert list(taught.measured) == list(measured.measured)
    assert taught.head.weight is measured.head.weight
    assert measured.tuned is None
    assert not any(tensor.requires_grad for tensor in taught.extras.values())
    told = [m for m in caplog.messages if m.startswith("epoch 8: mean cosine to XL on images held out: ")]
    assert len(told) == 1
    assert "@16px 0." in told[0]


def test_an_encoder_without_refits_learns_along_its_curve(make_architecture):
    model = matvit.elastic(make_architecture("augreg"))
    model.measured = {model.submodel("XL~4+4+0"): 0.5, model.space.full: 1.0}
    taught = distil(model, pictures(32, 2), Lessons(epochs=2, batch_size=16))
    assert taught.refits is None
    assert set(taught.tuned.numbers) == {model.submodel("XL~4+4+0")}
    small = {name: t.clone() for name, t in taught.tuned.tensors.items()}
    further = distil(taught, pictures(32, 3), Lessons(epochs=1, batch_size=16, learning_rate=1e-6))
    assert not all(torch.equal(t, small[name]) for name, t in further.tuned.tensors.items())
    for name, tensor in further.tuned.tensors.items():  # It begins where the others ended.
        torch.testing.assert_close(tensor, small[name], rtol=0, atol=1e-5)
    assert all(torch.equal(t, small[name]) for name, t in taught.tuned.tensors.items())


def test_lessons_along_a_curve_go_on_where_they_were_stopped(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("matvit.refitting.distillation.SAVE_SECONDS", 0)
    lessons = Lessons(epochs=4, batch_size=8)
    whole = distil(measured, pictures(20, 2), lessons).extras
    with pytest.raises(StoppedError):
        distil(measured, pictures(20, 2), lessons, kept=tmp_path / "kept", progress=stop_at(5))
    again = distil(measured, pictures(20, 2), lessons, kept=tmp_path / "kept").extras
    assert again.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())
    other = matvit.elastic(measured)
    other.measured = dict(list(measured.measured.items())[1:])
    with pytest.raises(TrainingError, match="keeps lessons of another encoder"):
        distil(other, pictures(20, 2), lessons, kept=tmp_path / "kept")


def test_a_submodel_that_is_close_already_is_not_disturbed(measured):
    model = matvit.elastic(measured)
    close = model.submodel("XL~4+2+1")
    model.measured = {**measured.measured, close: 0.996}
    taught = distil(model, pictures(32, 2), Lessons(epochs=1, batch_size=16))
    assert set(taught.tuned.numbers) == measured.measured.keys() - {model.space.full, close}
    images = pictures(4, 1)
    with torch.no_grad():
        assert torch.equal(taught(images, close), model(images, close))
