from __future__ import annotations

import io
import re

import pytest

from surefoot.train import progress
from surefoot.train.progress import Bar, Lines, Silent, clock, show, words

SIGNALS = {"train/loss": 0.5, "train/lr": 3e-4, "train/grad_norm": 12345.6}
RESULTS = {"val/loss": 0.25, "val/accuracy": 0.975, "val/squared_error": 1e-5}


def test_signals_in_words():
    assert words(SIGNALS) == "loss 0.5000  lr 3.00e-04  |g| 1.23e+04"
    assert words(RESULTS) == "val loss 0.2500  accuracy 97.50 %  squared_error 1.00e-05"
    assert words({"train/loss": 0.0}) == "loss 0.0000"


def test_durations():
    assert [clock(s) for s in (0, 59.4, 3600, 90061)] == ["0:00:00", "0:00:59", "1:00:00", "25:01:01"]


@pytest.mark.parametrize("width", [80, 200])
def test_the_bar_shows_steps_and_results(monkeypatch, width):
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    monkeypatch.setattr("rich.progress.get_console", lambda: console)
    with Bar(epochs=3, steps=30, done=0) as bar:
        bar.step(5, SIGNALS)
        bar.epoch(1, {**SIGNALS, **RESULTS}, best=True)
        bar.step(12, SIGNALS)
    shown = console.file.getvalue()
    assert "epoch 1/3  loss 0.5000  lr 3.00e-04" in shown
    assert "accuracy 97.50 %" in shown
    assert "best" in shown
    assert "epoch 2/3" in shown
    assert re.search(r"left 0:00:\d\d  loss 0.5000", shown)  # however narrow the terminal
    if width == 200:
        assert shown.count("squared_error 1.00e-05") > 1  # the results stay beside the bar


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"), [(True, False, Bar), (False, False, Lines), (True, True, Silent)]
)
def test_the_right_display_for_the_place(monkeypatch, terminal, quiet, kind):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: terminal, raising=False)
    assert type(show(epochs=1, steps=10, done=0, quiet=quiet)) is kind
