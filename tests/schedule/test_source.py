from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import schedules

import surefoot as sf
from surefoot.schedule import function, parse
from surefoot.schedule.source import plain_python
from surefoot.schedule.times import Clock


def run(schedule, total: float, units=()) -> object:
    """The plain Python of a schedule as a function, which has nothing but `math`."""
    definitions, expression = plain_python(schedule, "total", dict(units))
    space = {"math": math, "total": total, "steps_per_epoch": 10}
    exec(f"{definitions}\ndef schedule(t):\n    return {expression}", space)
    return space["schedule"]


@settings(deadline=None, max_examples=200)
@given(schedules, st.lists(st.floats(0, 2000), min_size=1, max_size=5))
def test_it_has_the_values_of_the_schedule(schedule, times):
    plain = run(schedule, 500)
    for t in [*times, 0, 1]:
        assert plain(t) == pytest.approx(schedule(t), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "cosine",
        "warmup(5) >> cosine",
        "warmup(2ep) >> cosine",
        "warmup(10%) >> step(3ep)",
        "wsd",
        "wsd(5%, 20%, linear)",
        "(warmup(5) >> cosine(20)).repeat(3)",
        "cosine.repeat(4)",
        "(warmup(1) >> cosine(3)).stretch(50%)",
        "one_cycle * step(30).floor(0.1)",
        "cosine_restarts(10, stretch=2).cut(45).scaled(2)",
        "piecewise((0, 1), (5ep, 0.1))",
        "multistep((3ep, 6ep), 0.2)",
    ],
)
def test_units_and_the_rest_of_a_run(text):
    total = 120
    schedule = parse(text).resolved(Clock(total, {"st": 1, "ep": 10})).over(total)
    plain = run(parse(text), total, {"ep": "steps_per_epoch", "st": "1", "%": "total / 100"})
    assert [plain(t) for t in range(total)] == pytest.approx([schedule(t) for t in range(total)])


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (parse("cosine * plateau"), "plain PyTorch code cannot have plateau"),
        (function(math.sqrt), "plain PyTorch code cannot have function"),
        (parse("warmup(500tok) >> cosine"), "it does not count tok"),
    ],
)
def test_what_it_cannot_have(schedule, words):
    with pytest.raises(sf.UserError, match=words):
        plain_python(schedule, "total", {"ep": "1"})
