"""What holds for any schedule, however it is put together."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_driver import optimizer, rates
from trees import SHAPES, lengths, numbers, schedules, shapes, times

import surefoot as sf
from surefoot import schedule as s
from surefoot.schedule import parse
from surefoot.schedule.shape import SHAPES as NAMES
from surefoot.schedule.times import Clock

NAMESPACE = {name: getattr(s, name) for name in NAMES}


@settings(deadline=None, max_examples=400)
@given(schedules, times)
def test_it_is_a_number_that_can_be_a_rate_at_any_time(schedule, t):
    assert 0 <= schedule(t) < math.inf


@settings(deadline=None)
@given(st.lists(times, min_size=1), st.data())
def test_every_shape_is_one_at_any_time(times, data):
    for shape in SHAPES:
        schedule = data.draw(shape)
        assert all(0 <= schedule(t) < math.inf for t in times), schedule


@settings(deadline=None)
@given(schedules, schedules, times)
def test_then(a, b, t):
    both = a >> b
    assert both(a.end) == b(0)
    assert both(t) == (a(t) if t < a.end else pytest.approx(b(t - a.end), rel=1e-6, abs=1e-9))


@settings(deadline=None)
@given(schedules, schedules, schedules, times)
def test_then_is_associative(a, b, c, t):
    assert (a >> b) >> c == a >> (b >> c)
    assert ((a >> b) >> c)(t) == (a >> (b >> c))(t)


@settings(deadline=None)
@given(schedules, schedules, numbers, times)
def test_products(a, b, x, t):
    assert (a * b)(t) == (b * a)(t) == pytest.approx(min(a(t) * b(t), 1.8e308))
    assert (a * x) == (x * a) == a.scaled(x)
    assert a.scaled(x)(t) == pytest.approx(x * a(t))
    assert a.floor(x)(t) == max(a(t), x)


@settings(deadline=None)
@given(shapes, lengths, st.floats(0, 0.999))
def test_stretching_keeps_the_shape(schedule, total, share):
    there = schedule(share * schedule.end)
    near = [schedule(max((share + e) * schedule.end, 0)) for e in (-1e-9, 1e-9)]
    found = schedule.stretch(total)(share * total)
    assert min(there, *near) - 1e-6 <= found <= max(there, *near) + 1e-6
    assert schedule.stretch(total)(total + 1) == schedule(schedule.end)


@settings(deadline=None)
@given(shapes, st.integers(1, 4), st.floats(0, 0.99))
def test_repeating_and_cutting(schedule, times, share):
    again = schedule.repeat(times)
    assert again.end == times * schedule.end
    assert again(share * schedule.end) == schedule(share * schedule.end)
    assert again(again.end) == again(again.end + 5) == schedule(schedule.end)
    assert schedule.repeat()(10 * schedule.end) in (schedule(0), schedule(10 * schedule.end % schedule.end))
    cut = schedule.cut(share * schedule.end + 0.1)
    assert cut(1e6) == cut(cut.end) == schedule(cut.end)


@settings(deadline=None)
@given(schedules, st.floats(0, 1e6))
def test_past_its_end_it_holds_its_last_value(schedule, more):
    after = schedule.end * (1 + 1e-12) + 1e-9  # ends are sums
    assert schedule(after + more) == schedule(after)


@settings(deadline=None, max_examples=300)
@given(schedules)
def test_it_reads_back_from_what_it_shows(schedule):
    assert eval(repr(schedule), {"__builtins__": {}}, NAMESPACE) == schedule
    assert parse(str(schedule)) == schedule
    assert hash(parse(str(schedule))) == hash(schedule)
    recipe = sf.Recipe(schedule=str(schedule))
    assert parse(sf.Recipe.from_toml(recipe.to_toml()).schedule) == schedule


@settings(deadline=None)
@given(schedules, times)
def test_copies_are_equal(schedule, t):
    schedule(t)
    for again in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert again == schedule
        assert again(t) == schedule(t)


@settings(deadline=None)
@given(schedules, st.integers(0, 50), st.integers(1, 50))
def test_a_resumed_run_goes_on_exactly(schedule, k, more):
    opt, fresh = optimizer(0.7), optimizer(0.7)
    sched = s.drive(opt, schedule)
    for _ in range(k):
        sched.step()
    again = s.drive(fresh, schedule)
    again.load_state_dict(sched.state_dict())
    for _ in range(more):
        assert rates(opt) == rates(fresh)
        sched.step()
        again.step()


def test_units_are_resolved_by_a_clock():
    clock = Clock(200, {"ep": 10, "st": 1, "sa": 1 / 4})
    text = "(warmup(3ep) >> constant(1, 20st)).stretch(50%) >> piecewise((0, 1), (8sa, 0)).cut(1ep)"
    found = parse(text).resolved(clock)
    assert found == parse("(warmup(30) >> constant(1, 20)).stretch(100) >> piecewise((0, 1), (2, 0)).cut(10)")
    assert parse(str(parse(text))) == parse(text)
    assert eval(repr(parse(text)), {"__builtins__": {}}, NAMESPACE) == parse(text)


@pytest.mark.parametrize(
    ("text", "total", "right"),
    [
        ("cosine", 50, "cosine(50)"),
        ("warmup(5) >> cosine", 50, "warmup(5) >> cosine(45)"),
        ("warmup(5) >> cosine", 5, "warmup(5)"),
        ("cosine(10)", 50, "cosine(10)"),
        ("cosine * rex", 50, "cosine(50) * rex(50)"),
        ("cosine.repeat(5)", 50, "cosine(10).repeat(5)"),
        ("cosine.scaled(2).floor(1)", 50, "cosine(50).scaled(2).floor(1)"),
        ("wsd(5, 10)", 50, "wsd(5, 10, length=50)"),
    ],
)
def test_the_rest_of_a_run(text, total, right):
    found = parse(text).over(total)
    assert [found(t) for t in range(total + 5)] == [parse(right)(t) for t in range(total + 5)]


MISTAKES = [
    (lambda: s.constant(-1), "factor=-1 must be 0 or more"),
    (lambda: s.constant(math.nan), "must be a finite number"),
    (lambda: s.cosine(0), "length=0 must be more than 0"),
    (lambda: s.cosine(True), "length=True must be a finite number"),
    (lambda: s.cosine([3]), "must be one time"),
    (lambda: s.cosine("3 days"), "'3 days' is no length of time"),
    (lambda: s.multistep(3), "must be a list of times"),
    (lambda: s.constant() >> s.cosine(3), "has no length, so nothing can follow it"),
    (lambda: s.constant().repeat(), "cannot be repeated"),
    (lambda: s.cosine(3).repeat(0), "times=0 must be a whole number"),
    (lambda: s.cosine(3).scaled(-1), "factor=-1 must be 0 or more"),
    (lambda: s.cosine(3).floor("x"), "least='x' must be a finite number"),
    (lambda: s.cosine(3).stretch(0), "total=0 must be more than 0"),
    (lambda: s.cosine(3).cut(-2), "length=-2 must be more than 0"),
    (lambda: s.wsd(curve="square"), "unknown curve of wsd square"),
    (lambda: s.wsd(60, 60, length=100), "longer than the whole"),
    (lambda: s.one_cycle(rise=0.7, phases=3), "phases=3"),
    (lambda: s.piecewise((0, 1)), "two or more"),
    (lambda: s.piecewise((0, 1), (5, 0), (5, 1)), "must rise from 0"),
    (lambda: s.piecewise((0, 1), 5), "must be a point"),
    (lambda: s.function(3), "3 is no function"),
    (lambda: s.cosine_restarts(5, stretch=0.5), "stretch=0.5 must be 1 or more"),
    (lambda: s.cosine()(3), "lasts for the rest of the run"),
    (lambda: s.cosine("3ep")(3), "lengths with units"),
    (lambda: s.cosine(3)(-1), "there is no time -1"),
    (lambda: s.cosine(3)(math.nan), "there is no time nan"),
    (lambda: s.plateau()(3), "is no function of time"),
]


@pytest.mark.parametrize(("mistake", "words"), MISTAKES)
def test_mistakes_are_named(mistake, words):
    with pytest.raises(sf.UserError) as error:
        mistake()
    assert words in str(error.value)


def test_wrong_arguments_are_told_how_it_is_called():
    with pytest.raises(TypeError, match=r"it is cosine\(length=None, floor=0\)"):
        s.cosine(lenght=3)
    with pytest.raises(TypeError):
        s.cosine(3) >> 5
