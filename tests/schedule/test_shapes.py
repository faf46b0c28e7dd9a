from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

import surefoot as sf
from surefoot.schedule import Schedule, constant, cosine, linear, parse, step

numbers = st.floats(0, 10, allow_nan=False).map(lambda x: round(x, 3))
lengths = st.integers(1, 500)
shapes = st.one_of(
    st.builds(constant, numbers, lengths),
    st.builds(step, lengths, numbers, lengths),
    st.builds(linear, numbers, numbers, lengths),
    st.builds(cosine, lengths, numbers),
)
times = st.one_of(st.integers(0, 10**9), st.floats(0, 2000, allow_nan=False))


def torch_factors(make, steps: int) -> list[float]:
    """What torch's scheduler makes of a base rate of 1, step by step."""
    opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = make(opt)
    factors = []
    for _ in range(steps):
        factors.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return factors


def warmup_then_cosine(opt):
    parts = [lr_scheduler.LinearLR(opt, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(opt, T_max=195)]
    return lr_scheduler.SequentialLR(opt, parts, milestones=[5])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (step(30, 0.1), lambda opt: lr_scheduler.StepLR(opt, 30, gamma=0.1)),
        (cosine(200), lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=200)),
        (linear(0.1, 1, 5) >> cosine(195), warmup_then_cosine),
        (step(7, 0.5), lambda opt: lr_scheduler.StepLR(opt, 7, gamma=0.5)),
        (cosine(200, floor=0.1), lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=200, eta_min=0.1)),
        (linear(0.01, 1, 5), lambda opt: lr_scheduler.LinearLR(opt, 0.01, total_iters=5)),
        (linear(1, 0.2, 150), lambda opt: lr_scheduler.LinearLR(opt, 1, 0.2, total_iters=150)),
        (constant(0.5, 10) >> constant(1), lambda opt: lr_scheduler.ConstantLR(opt, 0.5, total_iters=10)),
    ],
)
def test_values_are_torchs(ours, theirs):
    assert [ours(t) for t in range(200)] == pytest.approx(torch_factors(theirs, 200), abs=1e-12)


def test_cosine_holds_its_floor_where_torchs_rises_again():
    assert cosine(5)(10) == 0
    assert torch_factors(lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=5), 11)[10] == pytest.approx(1)


@given(shapes, shapes, times)
def test_then_hands_over_at_the_end(a, b, t):
    both = a >> b
    assert both(a.length) == b(0)
    assert both(t) == (a(t) if t < a.length else b(t - a.length))
    assert both.length == a.length + b.length


@given(shapes, shapes, shapes, times)
def test_then_is_associative(a, b, c, t):
    assert (a >> b) >> c == a >> (b >> c)
    assert ((a >> b) >> c)(t) == (a >> (b >> c))(t)


@given(shapes, shapes, times)
def test_values_are_numbers_and_never_negative(a, b, t):
    value = (a >> b)(t)
    assert not math.isnan(value)
    assert value >= 0 or value == pytest.approx(0, abs=1e-12)


@given(shapes, shapes)
def test_past_the_end_it_holds(a, b):
    both = a >> b
    assert both(both.length) == both(both.length + 12345)


@given(shapes, shapes)
def test_text_reads_back(a, b):
    for schedule in (a, a >> b):
        assert parse(str(schedule)) == schedule
        assert eval(repr(schedule), vars(sf.schedule).copy()) == schedule
        assert hash(parse(str(schedule))) == hash(schedule)


@given(shapes, st.integers(501, 2000))
def test_what_has_no_length_lasts_to_the_end_of_the_run(a, total):
    assert (a >> cosine()).over(total) == a >> cosine(total - a.length)
    assert (a >> constant()).over(total)(total) == 1
    assert a.over(total) == a


def test_what_the_run_never_reaches_falls_away():
    short = (linear(0, 1, 5) >> cosine()).over(3)
    assert [short(t) for t in (0, 3)] == [0, pytest.approx(0.6)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cosine() >> cosine(3), "cosine has no length, so nothing can follow it"),
        (lambda: step(3) >> cosine(3), "step(3) has no length"),
        (lambda: cosine()(3), "cosine has no length: give it one"),
        (lambda: cosine(5)(-3), "there is no time -3"),
        (lambda: cosine(0), "cosine: length=0 must be more than 0"),
        (lambda: cosine(-1), "length=-1 must be 0 or more"),
        (lambda: step(0), "every=0"),
        (lambda: linear(0, float("inf"), 5), "end=inf must be a finite number"),
        (lambda: constant("1"), "factor='1'"),
        (lambda: constant(True), "factor=True"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(sf.UserError) as error:
        make()
    assert words in str(error.value)


def test_only_schedules_follow_schedules():
    with pytest.raises(TypeError):
        cosine(3) >> 3
    assert isinstance(cosine(3) >> cosine(3), Schedule)
