"""Order and refit against activations written out, and numpy's least squares."""

from itertools import pairwise
from math import inf

import numpy as np
import pytest
import torch

from matvit.errors import RefitError
from matvit.refitting.closed_form import Moments, order, refit

HIDDEN, OUT, TOKENS = 12, 5, 400


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer():
    """Units with means, of different sizes, that partly repeat each other; and an output projection."""
    mixing_HH = double(HIDDEN, HIDDEN, seed=1) + 2 * torch.eye(HIDDEN)
    h_NH = double(TOKENS, HIDDEN) @ mixing_HH * torch.linspace(0.1, 2, HIDDEN)
    return h_NH + double(HIDDEN, seed=2), double(OUT, HIDDEN, seed=3)


def moments(x_NP, parts=3):
    of = Moments(x_NP.shape[1])
    for part in x_NP.chunk(parts):
        of.add(part)
    return of


def least_squares(h_NK, y_ND, bias=True):
    """The best linear reader, and what it leaves: numpy on activations written out."""
    columns = torch.cat([h_NK, torch.ones(len(h_NK), 1)], dim=1) if bias else h_NK
    solution, *_ = np.linalg.lstsq(columns.numpy(), y_ND.numpy(), rcond=None)
    error = np.square(columns.numpy() @ solution - y_ND.numpy()).sum(1).mean()
    return torch.tensor(solution), error


def greedy(h_NH, output_DH, count, bias=True):
    """The unit with which least squares does best beside those taken, again and again."""
    taken: list[int] = []
    for _ in range(count):
        others = [unit for unit in range(h_NH.shape[1]) if unit not in taken]
        errors = [least_squares(h_NH[:, [*taken, unit]], h_NH @ output_DH.T, bias)[1] for unit in others]
        taken.append(others[int(np.argmin(errors))])
    return taken


def of_kept(h_NH, output_DH, kept):
    return moments(torch.cat([h_NH[:, kept], h_NH @ output_DH.T], dim=1))


# --- moments ---


def test_moments_are_those_of_all_vectors_written_out(layer):
    h_NH, output_DH = layer
    found = moments(h_NH[:150]) + moments(h_NH[150:].float()).of(torch.arange(HIDDEN))
    assert found.count == TOKENS
    torch.testing.assert_close(found.mean, h_NH.mean(0), rtol=1e-6, atol=1e-6)
    centred = h_NH - h_NH.mean(0)
    torch.testing.assert_close(found.about(found.mean), centred.T @ centred / TOKENS, rtol=1e-6, atol=1e-6)
    point = double(HIDDEN, seed=5)
    apart = h_NH - point
    torch.testing.assert_close(found.about(point), apart.T @ apart / TOKENS, rtol=1e-6, atol=1e-6)
    both = moments(h_NH).with_image(output_DH)
    written_out = moments(torch.cat([h_NH, h_NH @ output_DH.T], dim=1))
    torch.testing.assert_close(both.total, written_out.total)
    torch.testing.assert_close(both.products, written_out.products)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_activations_that_are_not_finite_are_an_error(wrong):
    x_NP = torch.zeros(4, 3)
    x_NP[2, 1] = wrong
    with pytest.raises(RefitError, match="not finite"):
        moments(x_NP)


# --- order ---


@pytest.mark.parametrize("bias", [True, False])
def test_the_order_is_that_of_greedy_least_squares(layer, bias):
    h_NH, output_DH = layer
    of = moments(h_NH)
    spread = of.about(of.mean if bias else torch.zeros(HIDDEN))
    assert order(spread, output_DH, 8).tolist() == greedy(h_NH, output_DH, 8, bias)


def test_every_unit_can_be_ordered_once(layer):
    h_NH, output_DH = layer
    of = moments(h_NH)
    assert sorted(order(of.about(of.mean), output_DH, HIDDEN).tolist()) == list(range(HIDDEN))


def test_units_that_add_nothing_come_last(layer):
    h_NH, output_DH = layer
    h_NH[:, 3] = 7  # constant
    h_NH[:, 5] = 2 * h_NH[:, 4] - h_NH[:, 1]  # said by two others
    output_DH[:, 8] = 0  # read by nobody, so it can only stand in for others
    of = moments(h_NH)
    found = order(of.about(of.mean), output_DH, HIDDEN).tolist()
    assert 3 in found[9:]
    assert 8 in found[9:]
    assert len({1, 4, 5} & set(found[9:])) == 1
    constant = torch.zeros(HIDDEN, HIDDEN, dtype=torch.float64)
    assert order(constant, output_DH, 4).tolist() == [0, 1, 2, 3]


# --- refit ---


@pytest.mark.parametrize("bias", [True, False])
def test_a_refit_without_a_ridge_is_numpys_least_squares(layer, bias):
    h_NH, output_DH = layer
    kept = torch.tensor([7, 2, 9, 4])
    fit, held_out = of_kept(h_NH[:300], output_DH, kept), of_kept(h_NH[300:], output_DH, kept)
    found = refit(fit, held_out, output_DH[:, kept], bias=bias, ridges=[1e-14])
    wanted, _ = least_squares(h_NH[:, kept], h_NH @ output_DH.T, bias)
    torch.testing.assert_close(found.weight, wanted[:4].T, rtol=1e-8, atol=1e-8)
    shift_D = wanted[4] if bias else torch.zeros(OUT, dtype=torch.float64)
    torch.testing.assert_close(found.shift, shift_D, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [30, 300])
def test_the_ridge_is_the_best_on_images_held_out(layer, tokens, bias):
    h_NH, output_DH = layer
    kept = torch.arange(6)
    sliced = output_DH[:, kept]
    seen, others = slice(0, tokens), slice(tokens, None)
    mean_H = h_NH[seen].mean(0) if bias else torch.zeros(HIDDEN, dtype=torch.float64)
    unsaid = (h_NH - mean_H) @ output_DH.T - (h_NH - mean_H)[:, kept] @ sliced.T
    units = (h_NH - mean_H)[:, kept]
    variance = units[seen].square().mean(0)
    errors = {inf: unsaid[others].square().sum(1).mean()}
    for ridge in (1e-3, 0.3, 30.0):
        penalty = (tokens * ridge * variance).sqrt().diag()
        rows = torch.cat([units[seen], penalty])
        wanted = torch.cat([unsaid[seen], torch.zeros(6, OUT)])
        correction = torch.linalg.lstsq(rows, wanted).solution
        errors[ridge] = (unsaid - units @ correction)[others].square().sum(1).mean()
    best = min(errors, key=errors.get)
    fit, held_out = (of_kept(h_NH[part], output_DH, kept) for part in (seen, others))
    found = refit(fit, held_out, sliced, bias=bias, ridges=(1e-3, 0.3, 30.0))
    assert found.ridge == best
    assert found.unexplained == pytest.approx(float(errors[best] / errors[inf]), rel=1e-6)


def test_more_units_leave_less_unexplained(layer):
    h_NH, output_DH = layer
    of = moments(h_NH)
    first = order(of.about(of.mean), output_DH, HIDDEN)
    errors = []
    for width in (2, 4, 8, 12):
        kept = first[:width]
        both = of_kept(h_NH, output_DH, kept)
        found = refit(both, both, output_DH[:, kept])
        answer = h_NH[:, kept] @ found.weight.T + found.shift
        errors.append(float((answer - h_NH @ output_DH.T).square().sum()))
    assert all(more > less for more, less in pairwise(errors))
    assert errors[-1] < 1e-6 * errors[0]


def test_fewer_tokens_than_units_end_no_worse_than_the_slice():
    h_NH, output_DH = double(30, 64).relu(), double(OUT, 64, seed=1)
    kept = torch.arange(32)
    fit, held_out = of_kept(h_NH[:16], output_DH, kept), of_kept(h_NH[16:], output_DH, kept)
    found = refit(fit, held_out, output_DH[:, kept])
    assert found.weight.isfinite().all()
    assert found.unexplained <= 1
    assert found.ridge >= 1e-3


def test_constant_units_leave_the_slice_with_its_mean_put_right():
    h_NH, output_DH = double(HIDDEN).expand(50, -1), double(OUT, HIDDEN, seed=1)
    kept = torch.arange(4)
    both = of_kept(h_NH, output_DH, kept)
    found = refit(both, both, output_DH[:, kept])
    torch.testing.assert_close(found.weight, output_DH[:, kept])
    torch.testing.assert_close(found.weight @ h_NH[0, kept] + found.shift, output_DH @ h_NH[0])
