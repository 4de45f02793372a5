"""Which submodels a step trains: as often as asked, whatever else is random."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matvit import GRANULARITIES, Submodel, SubmodelError, SubmodelSpace
from matvit.submodels.tokens import Tokens
from matvit.training.submodel_sampling import PAPER_PROBABILITIES, joint, mixnmatch, sampled, seeing_less

ALL = tuple(GRANULARITIES)
SPACE = SubmodelSpace((64,) * 12)
STEPS = 20_000


def test_joint_is_the_same_in_every_step_and_largest_first():
    choose = joint(SPACE, ("S", "XL", "M"))
    assert choose(0) == choose(10**9) == tuple(map(SPACE.uniform, ("XL", "M", "S")))


def chi_square(counts, expected):
    return sum((counts[key] - mean) ** 2 / mean for key, mean in expected.items())


@pytest.mark.parametrize("probabilities", [None, PAPER_PROBABILITIES])
def test_granularities_come_as_often_as_asked(probabilities):
    choose = sampled(SPACE, ALL, probabilities, seed=3)
    drawn = [choose(step) for step in range(STEPS)]
    shares = dict(zip(ALL, probabilities or [1 / 4] * 4, strict=True))
    assert {len(submodels) for submodels in drawn} == {1}
    names = [str(submodel) for (submodel,) in drawn]
    assert chi_square(Counter(names), {name: STEPS * p for name, p in shares.items()}) < 30  # 1 in 10^6
    # One step tells nothing of the next.
    pairs = Counter(zip(names[::2], names[1::2], strict=True))
    expected = {(a, b): STEPS / 2 * shares[a] * shares[b] for a in ALL for b in ALL}
    assert chi_square(pairs, expected) < 56
    # Nor does one seed of another.
    others = Counter(str(sampled(SPACE, ALL, probabilities, seed=seed)(5)[0]) for seed in range(STEPS // 10))
    assert chi_square(others, {name: STEPS / 10 * p for name, p in shares.items()}) < 30
    next_seed = sampled(SPACE, ALL, probabilities, seed=4)
    assert [str(next_seed(step)[0]) for step in range(50)] != names[1:51]


def test_the_curve_is_covered_evenly():
    choose = mixnmatch(SPACE, seed=3)
    drawn = Counter(choose(step) for step in range(STEPS))
    expected = {(submodel,): STEPS / len(SPACE.curve) for submodel in SPACE.curve}
    assert drawn.keys() == expected.keys()
    assert chi_square(drawn, expected) < 98  # 1 in 10^6 of 36 degrees


def test_what_has_no_probability_never_comes():
    choose = sampled(SPACE, ("M", "S", "XL"), (0.0, 1.0, 0.0), seed=0)
    assert {choose(step) for step in range(200)} == {(SPACE.smallest,)}


@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.integers(0, 2**40), min_size=1, max_size=8),
    elsewhere=st.integers(0, 2**32 - 1),
    order=st.randoms(use_true_random=False),
)
@pytest.mark.parametrize("with_full", [False, True])
def test_a_draw_depends_on_seed_and_step_alone(with_full, seed, steps, elsewhere, order):
    makers = (
        lambda: sampled(SPACE, ALL, PAPER_PROBABILITIES, seed=seed, with_full=with_full),
        lambda: mixnmatch(SPACE, seed=seed, with_full=with_full),
    )
    for make in makers:
        choose = make()
        first = {step: choose(step) for step in steps}
        global_state = np.random.get_state()[1].tolist(), torch.get_rng_state()
        again, shuffled = make(), order.sample(steps, len(steps))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(elsewhere)
            assert {step: again(step) for step in shuffled} == first
        assert np.random.get_state()[1].tolist() == global_state[0]
        assert torch.equal(torch.get_rng_state(), global_state[1])
        for submodels in first.values():
            assert len(set(submodels)) == len(submodels) <= 1 + with_full
            assert (submodels[0] == SPACE.full) or not with_full


def test_the_full_encoder_beside_changes_no_draw():
    for make in (
        lambda **options: sampled(SPACE, ALL, seed=1, **options),
        lambda **options: mixnmatch(SPACE, seed=1, **options),
    ):
        alone, beside = make(), make(with_full=True)
        for step in range(50):
            assert set(beside(step)) == {SPACE.full, *alone(step)}


@pytest.mark.parametrize("make", [joint, lambda space, names: sampled(space, names, seed=0)])
def test_granularities_that_are_no_choice_are_refused(make):
    with pytest.raises(SubmodelError, match="'XXL' is none of S, M, L, XL"):
        make(SPACE, ("S", "XXL"))
    for names in ((), ("S", "M", "S")):
        with pytest.raises(SubmodelError, match="at least one granularity, and none twice"):
            make(SPACE, names)


@pytest.mark.parametrize(
    "probabilities", [(1.0,), (0.5, 0.6), (1.5, -0.5), (float("nan"), 1.0), (0.2, 0.3, 0.5)]
)
def test_probabilities_that_are_no_distribution_are_refused(probabilities):
    with pytest.raises(ValueError, match="probabilities must sum to 1, one for each of S, M"):
        sampled(SPACE, ("S", "M"), probabilities, seed=0)


# --- submodels that see less ---


PIXELS = SubmodelSpace((64,) * 12, tokens=Tokens((28, 28), (7, 7)))


def test_smaller_submodels_see_less_and_the_full_one_all():
    choose = seeing_less(joint(PIXELS, ["S", "M", "XL"]), PIXELS, [28, 21, 14], [0, 1], seed=0)
    seen = set()
    for step in range(200):
        full, *others = choose(step)
        assert full == PIXELS.full
        assert [Submodel(each.widths) for each in others] == [PIXELS.uniform("M"), PIXELS.uniform("S")]
        assert choose(step) == (full, *others)
        seen |= {(each.image_size, each.merges[0]) for each in others}
        assert all(len(set(each.merges)) == 1 for each in others)
    assert seen == {(size, merged) for size in (None, 21, 14) for merged in (0, 1)}


def test_submodels_of_a_step_see_different_things():
    choose = seeing_less(joint(PIXELS, ["S", "M", "L"]), PIXELS, [28, 21, 14], [], seed=1)
    assert any(len({each.image_size for each in choose(step)}) == 3 for step in range(50))
    assert any(choose(step) != choose(step + 1) for step in range(10))


def test_sizes_and_merges_that_the_encoder_cannot_have_are_refused():
    with pytest.raises(SubmodelError, match="20 px are no whole number of patches of 7 px"):
        seeing_less(joint(PIXELS, ["S"]), PIXELS, [20], [], seed=0)
    with pytest.raises(SubmodelError, match="its tokens cannot merge"):
        seeing_less(joint(SPACE, ["S"]), SPACE, [], [2], seed=0)
