from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import surefoot as sf
from surefoot.schedule import constant, cosine, cyclic, linear, parse, piecewise, plateau, step, warmup


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("cosine", cosine()),
        ("cosine()", cosine()),
        (" cosine ( 200 ) ", cosine(200)),
        ("cosine(length=1e2, floor=.5)", cosine(100, 0.5)),
        ("step(30, 0.1)", step(30, 0.1)),
        ("step(30, gamma=0.5)", step(30, 0.5)),
        ("constant", constant()),
        ("linear(0.1, 1, 5) >> cosine(195)", linear(0.1, 1, 5) >> cosine(195)),
        ("linear(0,1,5)>>constant(1,10)>>linear(1,0)", linear(0, 1, 5) >> constant(1, 10) >> linear(1, 0)),
        ("warmup(5%) >> cosine", warmup("5%") >> cosine()),
        ("warmup('5%') >> cosine", warmup("5%") >> cosine()),
        ("step(30ep).cut(2000st)", step("30ep").cut("2000st")),
        ("2 * cosine * 0.5", 2 * cosine() * 0.5),
        ("cosine(5) * warmup(3)", cosine(5) * warmup(3)),
        ("(warmup(5) >> cosine(9)) * plateau", (warmup(5) >> cosine(9)) * plateau()),
        ("cosine(5).floor(0.1).repeat(3).scaled(2).stretch(7)", cosine(5).floor(0.1).repeat(3).scaled(2).stretch(7)),
        ("piecewise((0, 1), [5ep, 0])", piecewise((0, 1), ("5ep", 0))),
        ("cyclic(5, mode=triangular2)", cyclic(5, mode="triangular2")),
        ("cyclic(5, mode='triangular2')", cyclic(5, mode="triangular2")),
    ],
)
def test_it_reads(text, schedule):
    assert parse(text) == schedule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it cannot be read"),
        ("cosin(3)", "unknown shape cosin: did you mean cosine?"),
        ("cosine(3", "it cannot be read: '(' was never closed"),
        ("cosine(3) >>", 'it cannot be read: invalid syntax; write it as "warmup(5) >> cosine"'),
        ("cosine(3) > cosine", "cosine(3) > cosine is no part of a schedule"),
        ("cosine(3) cosine", "it cannot be read"),
        ("cosine(3) >> __import__('os').system('true')", "unknown method of schedules system: known are cut, floor"),
        ("cosine(__import__('os'))", "unknown shape __import__: known are constant"),
        ("cosine.__class__", "cosine.__class__ is no part of a schedule"),
        ("cosine(5).plot()", "unknown method of schedules plot"),
        ("cosine(floors=1)", "unknown argument of cosine: floors: did you mean floor?"),
        ("cosine(floor=0, floor=1)", "cosine: floor is given twice"),
        ("cosine(floor=0, 5)", "positional argument follows keyword argument"),
        ("cosine(5, length=5)", "multiple values for argument 'length'; it is cosine(length=None, floor=0)"),
        ("linear(1)", "missing a required argument: 'end'; it is linear(start, end, length=None)"),
        ("linear(1, 2, 3, 4)", "too many positional arguments"),
        ("cosine(-3)", "length=-3 must be more than 0"),
        ("cosine(3 + 4)", "3 + 4 is no part of a schedule"),
        ("cosine(0)", "length=0 must be more than 0"),
        ("cosine(1e999)", "length=inf must be a finite number"),
        ("cosine('3')", "'3' is no length of time"),
        ("cosine(5parsec)", "it cannot be read"),
        ("cosine(True)", "True is no part of a schedule"),
        ("cosine(*[3])", "*[3] is no part of a schedule"),
        ("cosine(**{'floor': 3})", "unknown argument of cosine: {'floor': 3}"),
        ("cosine * 'a'", "cosine * 'a' is no schedule"),
        ("cosine * (1, 2)", "is no schedule"),
        ("2 * 3", "2 * 3 is no schedule"),
        ("cosine(3) >> 1", "1 is no schedule"),
        ("lambda t: 1", "lambda t: 1 is no part of a schedule"),
        ("[1, 2]", "[1, 2] is no schedule"),
        ("1", "1 is no schedule"),
        ("function(3)", "unknown shape function"),
        ("StepLR(30)", "StepLR is torch's name; here it is step(step_size, gamma)"),
        ("cyclic(5, mode=square)", "unknown mode of cyclic square: known are exp_range, triangular, triangular2"),
        ("cosine >> cosine(5)", "cosine has no length, so nothing can follow it"),
        ("cosine" * 3000, "18000 characters"),
    ],
)
def test_anything_else_is_refused_and_named(text, words):
    with pytest.raises(sf.UserError) as error:
        parse(text)
    assert words in str(error.value)
    assert len(str(error.value)) < 500


pieces = "cosine linear step constant warmup plateau ( ) , >> * = . length floor repeat 1 0.5 5ep 5% - ' é".split()


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*pieces, " "])).map("".join)))
@example("(" * 9_000)
@example("-" * 9_000 + "1")
@example("cosine(" + "9" * 9_000 + ")")
@example("cosine >> " * 900)
@example("cosine(5) >> " * 700 + "cosine")
@example("cosine(٣)")
@example("cosine\0")
@example("1_0ep")
def test_any_text_is_read_or_refused(text):
    try:
        schedule = parse(text)
    except sf.UserError:
        return
    assert parse(str(schedule)) == schedule
