"""What is kept of a long training is bounded, and the recent part is whole."""

from __future__ import annotations

import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.watch.due import Due
from surefoot.watch.series import Series
from surefoot.watch.signals import RECENT_LOOKS, RECENT_STEPS, Look, Signals, Step


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


def test_a_thousand_layers_and_a_million_steps_fit_into_64_mb():
    """Each series is filled to its brim, with the 32 tensors and 16 layers that a large model is sampled by."""
    signals = Signals()
    for i in range(2 * RECENT_STEPS):
        signals.steps.append(Step(i, 0.5 + i, 0.1 * i, 1.0 / (i + 1), 1.0 * i, 1, float(i)))
    for i in range(2 * RECENT_LOOKS):
        rows = np.random.default_rng(i).random((5, 32))
        signals.looks.append(Look(i, *rows, layers=np.random.default_rng(i).random((16, 10))))
    size = sum(values.nbytes for values in signals.arrays().values())
    objects = sum(sys.getsizeof(step) + sum(map(sys.getsizeof, step)) for step in signals.steps.items)
    objects += sum(
        sum(sys.getsizeof(v) + getattr(v, "nbytes", 0) for v in vars(x).values()) for x in signals.looks.items
    )
    assert size + objects < 64e6
