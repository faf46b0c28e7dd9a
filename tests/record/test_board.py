from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from surefoot.record.board import MOST, Board, thinned

counts = st.dictionaries(st.sampled_from("abc"), st.integers(1, 400))


@given(counts, st.integers(1, 60))
def test_of_many_values_few_are_kept_evenly_and_the_last_always(counts, most):
    rows = sorted((step, name, 0.0) for name, count in counts.items() for step in range(count))
    kept = thinned(rows, most)
    assert set(kept) <= set(rows)
    assert kept == sorted(kept)
    found = Counter(name for _, name, _ in kept)
    for name, count in counts.items():
        steps = [step for step, own, _ in kept if own == name]
        assert steps[-1] == count - 1
        assert len({b - a for a, b in pairwise(steps)}) <= 1
        assert min(count, most) / 2 <= found[name] <= most


def test_a_fast_training_has_a_thinner_log(tmp_path):
    board = Board(tmp_path, 0)
    board.add([(step, name, step / 4) for step in range(1, 501) for name in ("a", "b")] + [(500, "val", 1.0)])
    board.add([(501, "a", 7.0)])
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    gap = 500 // MOST
    assert [(e.step, e.value) for e in events.Scalars("a")] == [*((i, i / 4) for i in range(gap, 501, gap)), (501, 7.0)]
    assert len(events.Scalars("b")) == MOST
    assert [e.step for e in events.Scalars("val")] == [500]
