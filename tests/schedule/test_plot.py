from __future__ import annotations

import math

import matplotlib as mpl
import pytest
from PIL import Image

import surefoot as sf
from surefoot.cli import main
from surefoot.schedule import cosine, parse, plot, step, warmup

mpl.use("Agg")


def test_several_in_one_picture():
    guide = warmup(5) >> cosine(195)
    axes = guide.plot(step(30, 0.1), cosine(), total=200)
    try:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(guide), "step(30)", "cosine"]
        for line, schedule in zip(axes.get_lines(), (guide, step(30), cosine(200)), strict=True):
            times, values = line.get_data()
            assert times[0] == 0
            assert times[-1] == 200
            assert all(value == pytest.approx(schedule(t)) for t, value in zip(times, values, strict=True))
        assert guide.plot(ax=axes) is axes
        assert len(axes.get_lines()) == 4
    finally:
        mpl.pyplot.close(axes.figure)


@pytest.mark.parametrize(
    ("text", "total", "end"),
    [
        ("cosine(40)", None, 40),
        ("cosine", None, 100),
        ("step(30)", None, 100),
        ("step(30)", 60, 60),
        ("warmup(5) >> cosine", None, 100),
        ("warmup(10%) >> cosine", 50, 50),
        ("cosine(40) * plateau", None, 100),
    ],
)
def test_how_far_it_is_drawn(text, total, end):
    ((times, values),) = plot.sampled([parse(text)], total)
    assert times[-1] == end
    assert all(0 <= value < math.inf for value in values)


def test_jumps_are_drawn_upright():
    ((times, values),) = plot.sampled([step(30, 0.1)], 60)
    at = times.index(30)
    assert values[at - 1 : at + 1] == [1, pytest.approx(0.1)]
    assert times[at] - times[at - 1] < 1e-9


def test_the_terminal_shows_its_form():
    shown = plot.terminal([cosine(), warmup()], total=100, size=(60, 12))
    first, second = shown.split("\n\n")
    for picture, name in ((first, "cosine"), (second, "warmup")):
        title, *lines = picture.splitlines()
        assert title == name
        assert len(lines) == 12
        assert "\x1b" not in picture
        assert max(map(len, lines)) <= 60
    drawn = [[i for i, c in enumerate(line) if "⠀" < c <= "⣿"] for line in first.splitlines()[2:-2]]
    left = [min(columns) for columns in drawn if columns]
    assert left == sorted(left)  # it falls from left to right
    assert left[-1] - left[0] > 30


def test_the_command_line_draws(capsys, tmp_path):
    assert main(["schedule", "linear(0.1,1,5) >> cosine(195)", "step(30ep)", "--total", "200"]) == 1
    assert "30ep: say how many steps an epoch has" in capsys.readouterr().err
    assert main(["schedule", "linear(0.1,1,5) >> cosine(195)"]) == 0
    assert capsys.readouterr().out.startswith("linear(0.1, 1, 5) >> cosine(195)\n")
    picture = tmp_path / "curves.png"
    units = ["--total", "90", "--steps-per-epoch", "10"]
    assert main(["schedule", "cosine", "rex", "step(3ep)", *units, "--save", str(picture)]) == 0
    assert capsys.readouterr().out.strip() == str(picture)
    with Image.open(picture) as image:
        assert image.size[0] > 500


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(sf.UserError, match=r"pip install .surefoot\[plot\]"):
        cosine(5).plot()
