from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import surefoot as sf
from surefoot.schedule import constant, cosine, linear, parse, step


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
    ],
)
def test_it_reads(text, schedule):
    assert parse(text) == schedule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a shape (constant, step, linear, cosine), found the end at character 1"),
        ("cosin(3)", "cosin: did you mean cosine?"),
        ("cosine(3", "expected ',', found the end at character 9"),
        ("cosine(3) >>", "expected a shape"),
        ("cosine(3) > cosine", "expected '>>' or the end, found '>' at character 11"),
        ("cosine(3) cosine", "found 'cosine' at character 11"),
        ("cosine(3) >> __import__('os').system('true')", "__import__: known are"),
        ("cosine(__import__('os'))", "__import__: known are"),
        ("cosine.__class__", "expected '>>' or the end, found '.'"),
        ("cosine(floors=1)", "floors: did you mean floor?"),
        ("cosine(floor=0, floor=1)", "expected floor only once"),
        ("cosine(floor=0, 5)", "a named argument"),
        ("cosine(5, length=5)", "multiple values for argument 'length'"),
        ("linear(1)", "missing a required argument: 'end'; it is linear(start, end, length=None)"),
        ("linear(1, 2, 3, 4)", "too many positional arguments"),
        ("cosine(-3)", "expected a number, found '-' at character 8"),
        ("cosine(3 + 4)", "found '+'"),
        ("cosine(0)", "length=0.0 must be more than 0"),
        ("cosine(1e999)", "length=inf must be a finite number"),
        ("cosine('3')", "expected a number"),
        ("lambda t: 1", "lambda: known are"),
        ("[1, 2]", "found '['"),
        ("1", "found '1'"),
        ("cosine(3,)", "expected a number, found ')'"),
        ("cosine(,3)", "expected a number, found ','"),
    ],
)
def test_anything_else_is_refused_and_named(text, words):
    with pytest.raises(sf.UserError) as error:
        parse(text)
    assert words in str(error.value)


pieces = [
    "cosine",
    "linear",
    "step",
    "constant",
    "(",
    ")",
    ",",
    ">>",
    "=",
    "length",
    "floor",
    "1",
    "0.5",
    "-",
    " ",
    "é",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(pieces)).map("".join)))
@example("(" * 10_000)
@example("cosine(" + "9" * 10_000 + ")")
@example("cosine >> " * 2_000)
@example("cosine(٣)")
def test_any_text_is_read_or_refused(text):
    try:
        schedule = parse(text)
    except sf.UserError:
        return
    assert parse(str(schedule)) == schedule
