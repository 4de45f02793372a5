"""Which images a step sees: each at most once an epoch, the same however a run is divided or resumed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matvit.errors import TrainingError
from matvit.training.image_order import SHARDS_MIXED, MicroBatches, Order


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """Orders of up to 40 runs, some of them empty, in batches that divide into many parts."""
    runs = tuple(draw(st.lists(st.integers(0, 7), min_size=1, max_size=40)))
    batch_size = draw(st.sampled_from([1, 2, 4, 6, 8, 12]))
    if sum(runs) < batch_size:
        runs = (*runs, batch_size)
    return Order(runs, batch_size, draw(st.integers(0, 2**40)))


def epoch_of(order: Order, epoch: int) -> list[int]:
    """The numbers of all images of an epoch, step after step."""
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    batches = [order.step(step) for step in steps]
    assert {number for number, _ in batches} == {epoch}
    assert all(len(images) == order.batch_size for _, images in batches)
    return [int(i) for _, images in batches for i in images]


@given(orders(), st.integers(0, 5))
def test_an_epoch_has_each_image_once_but_for_the_remainder(order: Order, epoch: int) -> None:
    images = epoch_of(order, epoch)
    assert len(set(images)) == len(images) == order.images - order.images % order.batch_size
    assert set(images) <= set(range(order.images))


@given(orders(), st.data())
def test_ranks_and_parts_divide_the_same_batch(order: Order, data: st.DataObject) -> None:
    ways = [
        (w, a) for w in range(1, 13) for a in range(1, 13) if w * a <= 12 and order.batch_size % (w * a) == 0
    ]
    world_size, accumulate = data.draw(st.sampled_from(ways))
    steps = range(2 * order.steps_per_epoch + 1)
    ranks = [
        MicroBatches(order, steps, rank=rank, world_size=world_size, accumulate=accumulate)
        for rank in range(world_size)
    ]
    size = order.batch_size // (world_size * accumulate)
    parts = [list(rank) for rank in ranks]
    assert all(
        len(rank) == len(lazy) == len(steps) * accumulate for rank, lazy in zip(parts, ranks, strict=True)
    )
    for step in steps:
        # Part after part and in each the ranks in turn: the very order of the undivided batch.
        seen = [p for a in range(accumulate) for rank in parts for p in rank[step * accumulate + a]]
        assert all(len(rank[step * accumulate + a]) == size for rank in parts for a in range(accumulate))
        epoch, images = order.step(step)
        assert seen == [(epoch, int(image)) for image in images]


@given(orders(), st.data())
def test_a_start_in_the_middle_is_the_tail_of_the_whole(order: Order, data: st.DataObject) -> None:
    steps = 3 * order.steps_per_epoch
    first = data.draw(st.integers(0, steps))
    accumulate = data.draw(st.sampled_from([n for n in (1, 2, 4) if order.batch_size % n == 0]))
    whole = list(MicroBatches(order, range(steps), accumulate=accumulate))
    assert (
        list(MicroBatches(order, range(first, steps), accumulate=accumulate)) == whole[first * accumulate :]
    )
    again = Order(order.runs, order.batch_size, order.seed)
    assert list(MicroBatches(again, range(steps), accumulate=accumulate)) == whole


@pytest.mark.parametrize("runs", [(100,), (50, 50), (5,) * 20])
def test_epochs_and_seeds_differ(runs: tuple[int, ...]) -> None:
    drawn = {tuple(epoch_of(Order(runs, 10, seed), epoch)) for seed in range(5) for epoch in range(5)}
    assert len(drawn) == 25
    assert all(images != tuple(sorted(images)) for images in drawn)


def test_every_image_falls_in_the_remainder_at_times() -> None:
    order = Order((13,), 10, 0)
    left = [set(range(13)) - set(epoch_of(order, epoch)) for epoch in range(40)]
    assert all(len(some) == 3 for some in left)
    assert set.union(*left) == set(range(13))


def test_runs_are_mixed_within_their_group_alone() -> None:
    count, size = 3 * SHARDS_MIXED + 2, 4
    order = Order((size,) * count, size, 0)
    firsts = []
    for epoch in range(3):
        runs = np.array(epoch_of(order, epoch)) // size
        groups = [runs[at : at + SHARDS_MIXED * size] for at in range(0, len(runs), SHARDS_MIXED * size)]
        members = [set(group.tolist()) for group in groups]
        assert [len(group) for group in members] == [SHARDS_MIXED] * 3 + [2]
        assert set.union(*members) == set(range(count))
        firsts.append(frozenset(members[0]))
        # Within a group, the images of a run are spread.
        assert all(np.ptp(np.flatnonzero(groups[0] == run)) >= size for run in list(members[0])[:8])
    assert len(set(firsts)) == 3, "which runs go together changes"


def test_a_single_run_is_mixed_as_a_whole() -> None:
    images = epoch_of(Order((1000,), 10, 0), 0)
    assert np.std(images[:100]) > 200


@pytest.mark.parametrize("batch_size, world_size, accumulate", [(8, 3, 1), (8, 1, 5), (8, 4, 4), (1, 2, 1)])
def test_a_batch_that_does_not_divide_is_refused(batch_size: int, world_size: int, accumulate: int) -> None:
    order = Order((16,), batch_size, 0)
    message = f"a batch of {batch_size} does not divide into {world_size} processes x {accumulate} parts"
    with pytest.raises(TrainingError, match=message):
        MicroBatches(order, range(3), world_size=world_size, accumulate=accumulate)


@pytest.mark.parametrize("runs", [(), (0,), (7,), (3, 0, 4)])
def test_too_few_images_are_refused(runs: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match=f"{sum(runs)} images are fewer than one batch of 8"):
        Order(runs, 8, 0)
