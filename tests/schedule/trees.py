"""Random schedules for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from surefoot import schedule as s

numbers = st.floats(0, 3, allow_nan=False).map(lambda x: round(x, 3))
shares = st.floats(0.01, 1).map(lambda x: round(x, 3))
lengths = st.one_of(st.integers(1, 300), st.floats(0.5, 300).map(lambda x: round(x, 2)))

SHAPES = [
    st.builds(s.constant, numbers, lengths),
    st.builds(s.step, lengths, numbers, lengths),
    st.builds(s.multistep, st.lists(lengths, min_size=1, max_size=4), numbers, lengths),
    st.builds(s.exponential, numbers, lengths),
    st.builds(s.linear, numbers, numbers, lengths),
    st.builds(s.warmup, lengths, numbers),
    st.builds(s.cosine, lengths, numbers),
    st.builds(s.polynomial, lengths, numbers, numbers),
    st.builds(s.rex, lengths),
    st.builds(s.inverse_sqrt, lengths, lengths),
    st.builds(s.power, lengths, numbers, lengths),
    st.lists(st.tuples(st.integers(1, 300), numbers), min_size=1, max_size=4, unique_by=lambda p: p[0]).map(
        lambda points: s.piecewise((0, 0.5), *sorted(points))
    ),
    st.builds(s.cosine_restarts, lengths, st.sampled_from([1, 1.5, 2, 3]), numbers, numbers, lengths),
    st.builds(
        s.one_cycle, lengths, numbers, numbers, numbers, shares.map(lambda x: x / 2),
        st.sampled_from(["cosine", "linear"]), st.sampled_from([2, 3]),
    ),
    st.builds(
        s.cyclic, lengths, lengths, numbers, numbers,
        st.sampled_from(["triangular", "triangular2", "exp_range"]), numbers, lengths,
    ),
    st.builds(
        lambda length, a, b, curve, floor: s.wsd(a * length / 2, b * length / 2, curve, floor, length),
        lengths, shares, shares, st.sampled_from(["sqrt", "linear", "cosine"]), shares,
    ),
]  # fmt: skip
shapes = st.one_of(SHAPES)


def combined(inner):
    return st.one_of(
        st.builds(lambda a, b: a >> b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, x: a.scaled(x), inner, numbers),
        st.builds(lambda a, x: a.floor(x), inner, numbers),
        st.builds(lambda a, n: a.repeat(n), inner, st.integers(1, 3)),
        st.builds(lambda a, x: a.stretch(x), inner, lengths),
        st.builds(lambda a, x: a.cut(x), inner, lengths),
    )


schedules = st.recursive(shapes, combined, max_leaves=5)  # with an end, each of them
times = st.one_of(st.integers(0, 10**9), st.floats(0, 1000, allow_nan=False))
