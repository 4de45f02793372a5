"""Alignments: the fit against an exact oracle, and what comes closer by it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from matvit import Submodel
from matvit.refitting import align as aligning
from matvit.refitting.align import align, fit, only


def moved(found, own):
    return found + own["bias"] + found @ own["down"].T @ own["up"].T


def embeddings(images, width, seed, noise):
    """Embeddings of a submodel and of the full encoder, which an affine map and noise tell apart."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    found = draw(images, width) * torch.linspace(2, 0.2, width)
    map_ = torch.eye(width, dtype=torch.float64) + 0.3 * draw(width, 2) @ draw(2, width) / width**0.5
    return found, found @ map_ + 0.5 * draw(width) + noise * draw(images, width)


def brute_force(found, wanted, ridge):
    """What a ridge errs on each image left out, and its map of all: by solving anew each time."""

    def solved(rows):
        z, y = found[rows] - found[rows].mean(0), wanted[rows] - wanted[rows].mean(0)
        penalty = ridge * (found - found.mean(0)).square().sum() / found.shape[1]
        w = torch.linalg.solve(z.T @ z + penalty * torch.eye(z.shape[1]), z.T @ (y - z))
        return w, wanted[rows].mean(0) - found[rows].mean(0) @ (torch.eye(len(w)) + w)

    error = 0.0
    for row in range(len(found)):
        w, bias = solved([other for other in range(len(found)) if other != row])
        error += float((found[row] + found[row] @ w + bias - wanted[row]).square().sum())
    return error, *solved(list(range(len(found))))


@given(
    images=st.integers(12, 30),
    width=st.integers(2, 9),
    seed=st.integers(0, 99),
    noise=st.sampled_from([0.05, 0.5]),
)
def test_the_ridge_is_the_one_that_errs_least_on_images_left_out(images, width, seed, noise):
    found, wanted = embeddings(images, width, seed, noise)
    own = fit(found, wanted)
    tried = [brute_force(found, wanted, ridge) for ridge in aligning._RIDGES]
    error, w, bias = min(tried, key=lambda each: each[0])
    if own is None:
        assert error >= (1 - 1e-9) * float((wanted - found).square().sum()), "no map errs less than none"
        return
    torch.testing.assert_close(moved(found, own), found + found @ w + bias, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own["up"] @ own["down"], w.T, rtol=1e-6, atol=1e-6)


def test_a_low_rank_is_the_best_of_its_kind_on_these_images():
    found, wanted = embeddings(60, 12, 0, 0.1)
    whole = fit(found, wanted)
    low = fit(found, wanted, rank=2)
    assert low["down"].shape == (2, 12)
    shifts = moved(found, whole) - found
    kept = moved(found, low) - found
    centred = shifts - shifts.mean(0)
    lost = (centred - (kept - kept.mean(0))).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(centred)[2:].square().sum())
    torch.testing.assert_close(kept.mean(0), (wanted - found).mean(0))


def test_what_is_right_already_gets_no_map():
    found, _ = embeddings(40, 6, 0, 0)
    assert fit(found, found) is None


def test_embeddings_that_are_all_alike_are_moved(tiny):
    found = torch.ones(40, 6)
    own = fit(found, found + 1)
    torch.testing.assert_close(moved(found.double(), own), found.double() + 1)


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 1, 16, 16, generator=generator)
    return [base + torch.randn(20, 1, 16, 16, generator=generator) for _ in range(5)]


def cosine(model, submodel, batch):
    if (side := submodel.image_size) is not None:
        small = F.interpolate(batch, (side, side), mode="bicubic", antialias=True)
    else:
        small = batch
    full, found = model.forward_embedding(batch), model.forward_embedding(small, submodel)
    return float(F.cosine_similarity(full, found).mean())


@torch.no_grad()
def test_other_images_come_closer_and_the_full_encoder_stays_itself(tiny, batches):
    *fitted, others = batches
    submodels = [tiny.submodel(budget) for budget in ("S", "M", "XL@8px", "M~2@8px")]
    told = []
    model = align(tiny, [*submodels, tiny.space.full], fitted, progress=lambda *count: told.append(count))
    assert set(model.alignments.numbers) == set(submodels)
    assert told[-1] == ("images aligned", 5 * 80, 5 * 80)
    for submodel in submodels:
        assert cosine(model, submodel, others) > cosine(tiny, submodel, others)
    assert torch.equal(model(others), tiny(others))
    assert tiny.alignments is None
    again = align(model, submodels, fitted)
    for name, tensor in model.alignments.tensors.items():
        assert torch.equal(again.alignments.tensors[name], tensor), "of embeddings as they were before"
    kept = only(model, [submodels[2], Submodel(tiny.space.full.layers, image_size=8)])
    assert list(kept.alignments.numbers.values()) == [0]
    for name, tensor in kept.alignments.of(submodels[2]).items():
        assert torch.equal(tensor, model.alignments.of(submodels[2])[name])
    assert only(model, []).alignments is None
    assert only(tiny, submodels).alignments is None


def test_too_few_images_align_nothing(tiny, batches):
    model = align(tiny, [tiny.submodel("S")], [batches[0]])
    assert model.alignments is None
