"""Points beside the lines between granularities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.measuring.curve import above_line


def test_a_point_on_the_line_one_above_and_one_below() -> None:
    right = np.zeros((5, 100), bool)
    for point, count in enumerate((40, 55, 60, 72, 80)):
        right[point, :count] = True
    found = above_line([1, 2, 3, 4, 5], [True, False, False, False, True], right)
    assert [each.value for each in found] == pytest.approx([0, 0.05, 0, 0.02, 0])
    assert found[0].interval == found[-1].interval == (0, 0)
    below = above_line([1, 2, 3], [True, False, True], np.array([[1] * 100, [0] * 100, [1] * 100], bool))
    assert below[1].value == -1


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(5, 60))
def test_differences_are_those_of_interpolated_accuracies(seed: int, points: int, queries: int) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random((points, queries)) < rng.random((points, 1))
    costs = np.cumsum(rng.random(points) + 0.1)
    ends = rng.random(points) < 0.4
    ends[[0, -1]] = True
    line = np.interp(costs, costs[ends], right.mean(axis=1)[ends])
    found = above_line(costs.tolist(), ends.tolist(), right)
    assert [each.value for each in found] == pytest.approx(right.mean(axis=1) - line, abs=1e-12)
    for each in found:
        low, high = each.interval
        assert low <= high
