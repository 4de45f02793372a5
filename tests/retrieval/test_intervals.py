"""Wilson's interval, against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from retrieval.intervals import Share


@given(total=st.integers(1, 10**6), part=st.floats(0, 1))
def test_interval_is_scipy_s(total: int, part: float) -> None:
    share = Share(round(part * total), total)
    expected = binomtest(share.count, total).proportion_ci(method="wilson")
    assert share.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1


@pytest.mark.parametrize("total", [1, 7, 360, 10**6])
def test_none_and_all_have_one_sided_intervals(total: int) -> None:
    none, every = Share(0, total), Share(total, total)
    assert none.interval[0] == 0.0 < none.interval[1] < 1
    assert 0 < every.interval[0] < every.interval[1] == 1.0


def test_printed_in_percent() -> None:
    assert str(Share(351, 360)) == "97.50 (95.32-98.68)"
