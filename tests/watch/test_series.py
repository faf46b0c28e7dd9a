"""What is kept of a long training is bounded, and the recent part is whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.watch.due import Due
from surefoot.watch.series import Series


@settings(deadline=None, max_examples=50)
@given(st.integers(8, 64), st.integers(0, 2000))
def test_a_series_is_bounded_in_order_and_whole_at_its_end(most, count):
    series = Series[int](most)
    for i in range(count):
        series.append(i)
    assert len(series) <= most + most // 4
    assert series.items == sorted(set(series.items))
    tail = most // 4
    assert series.items[-tail:] == list(range(max(0, count - tail), count))[-tail:]
    assert not count or series.items[0] == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(5, 2000), st.floats(1.05, 2))
def test_looks_grow_rarer_up_to_their_distance(every, growth):
    due = Due(every, growth)
    steps = [step for step in range(int(every / (growth - 1)) + 5 * every) if due(step)]
    assert steps[:4] == [0, 1, 2, 3]
    assert max(np.diff(steps)) <= max(every, 2) + every  # the first one of the even ones may come late
    assert set(np.diff(steps[-3:])) == {every}
