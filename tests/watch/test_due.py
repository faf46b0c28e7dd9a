"""When the next look is due, against asking for each step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot.watch.due import Due


@given(st.integers(1, 80), st.floats(1.05, 2.0), st.integers(1, 40), st.integers(0, 600))
def test_the_next_one_is_the_first_that_is_due(every, growth, first, step):
    due = Due(every, growth, first)
    assert due.next(step) == next(n for n in range(step, step + 10_000) if due(n))
