"""The shapes' values, by their formulas written down once more, and by what their papers say of them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import surefoot as sf
from surefoot import schedule as s
from surefoot.schedule.shape import SHAPES

lengths = st.floats(1, 1000)
numbers = st.floats(0, 3)
shares = st.floats(0, 1)


def same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


@settings(deadline=None)
@given(lengths, shares)
def test_rex(length, z):
    """Chen et al.: (1 - z) / (1/2 + (1 - z) / 2)."""
    assert same(s.rex(length)(z * length), (1 - z) / (0.5 + 0.5 * (1 - z)))


@settings(deadline=None)
@given(lengths, st.floats(0, 1e6), numbers)
def test_power_laws(scale, t, exponent):
    assert same(s.power(scale, exponent)(t), (scale / (scale + t)) ** exponent)
    assert same(s.inverse_sqrt(scale)(t), s.power(scale, 0.5)(t))


@pytest.mark.parametrize("step", [1, 100, 4000, 4001, 50_000])
def test_inverse_sqrt_is_the_transformers(step):
    """Vaswani et al., eq. 3: d^-0.5 min(n^-0.5, n warmup^-1.5), with its highest rate as 1."""
    peak = 4000**-0.5
    theirs = min(step**-0.5, step * 4000**-1.5) / peak
    assert same((s.warmup(4000) >> s.inverse_sqrt(4000))(step), theirs)


@settings(deadline=None)
@given(lengths, st.floats(0.01, 0.5), st.floats(0.01, 0.5), shares, shares)
def test_wsd(length, up, down, floor, at):
    warmup, cooldown, t = up * length, down * length, at * length
    z = max(0.0, (t - (length - cooldown)) / cooldown)
    curves = {"linear": 1 - z, "cosine": (1 + math.cos(math.pi * z)) / 2, "sqrt": 1 - math.sqrt(z)}
    for curve, high in curves.items():
        right = t / warmup if t < warmup else floor + (1 - floor) * high
        assert s.wsd(warmup, cooldown, curve, floor, length)(t) == pytest.approx(right, abs=1e-6)


@settings(deadline=None)
@given(lengths, st.sampled_from([1, 1.5, 2, 3]), st.floats(0.3, 1.5), st.floats(0, 0.2), st.floats(0, 5000))
def test_restarts(first, stretch, height, floor, t):
    """Walked cycle by cycle."""
    begin, length, high = 0.0, first, 1.0
    while t >= begin + length:
        begin, length, high = begin + length, length * stretch, high * height
    value = s.cosine_restarts(first, stretch, height, floor)(t)
    if min(t - begin, begin + length - t) < 1e-6 * (1 + t):  # at a restart, rounding decides which cycle it is
        return
    share = (t - begin) / length
    assert same(value, floor + (max(high, floor) - floor) * (1 + math.cos(math.pi * share)) / 2)


def test_restarts_begin_again_where_they_should():
    """At the sums of lengths, at which logarithms are off by one."""
    for stretch in (1, 2, 3):
        restarts = s.cosine_restarts(7, stretch)
        at = 0
        for i in range(20 if stretch == 1 else 10):
            assert restarts(at) == 1, (stretch, i)
            at += 7 * stretch**i


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), numbers), min_size=1, max_size=5, unique_by=lambda p: p[0]), shares)
def test_piecewise_goes_through_its_points(points, share):
    points = [(0, 1.0), *sorted(points)]
    lines = s.piecewise(*points)
    for (a, low), (b, high) in pairwise(points):
        assert same(lines(a), low)
        assert same(lines(a + share * (b - a)), low + share * (high - low))
    assert lines(10**6) == points[-1][1]


@settings(deadline=None)
@given(lengths, numbers, numbers, shares)
def test_lines(length, a, b, share):
    line = s.linear(a, b, length)
    assert line(0) == a
    assert line(length) == line(2 * length) == b
    assert same(line(share * length), a + share * (b - a))
    assert s.warmup(length, a)(share * length) == s.linear(a, 1, length)(share * length)
    assert same(s.polynomial(length, 1)(share * length), 1 - share)


def test_a_function_of_the_users():
    twice = s.function(lambda t: 2 * t, 5)
    assert [twice(t) for t in (0, 3, 5, 9)] == [0, 6, 10, 10]
    assert s.function(math.sqrt) == s.function(math.sqrt)
    assert (s.function(math.sqrt, 4) >> s.cosine(3))(4) == 1


def test_one_cycle_for_momentum_goes_the_other_way():
    cycle = s.one_cycle(10, start=1, peak=0.8, end=1, rise=0.5, curve="linear")
    assert [cycle(t) for t in (0, 5, 10)] == [1, 0.8, 1]
    three = s.one_cycle(10, start=0.2, end=0, rise=0.3, curve="linear", phases=3)
    assert [three(t) for t in (0, 3, 6, 8, 10)] == pytest.approx([0.2, 1, 0.2, 0.1, 0])


def test_what_every_shape_is_called_and_documented():
    """The public functions are the shapes that text knows, each with its formula."""
    public = {name for name in s.__all__ if name.islower()} - {"drive", "from_torch", "parse"}
    assert public == set(SHAPES)
    for name in public:
        make = getattr(s, name)
        assert make.__name__ == name
        assert "f(t) =" in make.__doc__ or name in ("cyclic", "wsd", "one_cycle", "piecewise", "function", "plateau")
        assert ">>> " in make.__doc__


def test_what_the_rate_never_reaches_falls_away():
    short = (s.linear(0, 1, 5) >> s.cosine()).over(3)
    assert [short(t) for t in (0, 3)] == [0, pytest.approx(0.6)]


def test_schedules_are_frozen():
    with pytest.raises(AttributeError):
        s.cosine(3).length = 5
    assert isinstance(s.cosine(3), sf.schedule.Schedule)
