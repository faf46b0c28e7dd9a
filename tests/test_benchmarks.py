"""The benchmarks run, and what they say that can be judged here is so (times are judged by people)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def rows(script: str, *arguments: str) -> list[str]:
    """The rows of the table that a benchmark prints."""
    command = [sys.executable, str(FOLDER / script), *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for line in out.splitlines() if line.startswith("| ")][1:]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["digits-cnn", "digits-mlp", "quadratic-deep", "stdlib-gpt", "stdlib-gru"])
def test_every_optimizer_of_the_guide_trains_every_task(task):
    found = rows("tasks.py", task)
    assert len(found) == 6
    assert all("| yes |" in row for row in found), found


@pytest.mark.slow
def test_the_other_tables_are_printed():
    assert len(rows("import_time.py", "--runs", "1")) == 4
    assert len(rows("accuracy.py")) == 23
    assert len(rows("sharded.py", "--rounds", "3")) == 6


@pytest.mark.slow
def test_gradients_never_exist_all_at_once():
    usual, ours = (row.split("|") for row in rows("backward_memory.py", "--width", "512", "--layers", "16"))
    assert float(ours[2]) < float(usual[2]) / 15


@pytest.mark.slow
def test_the_watch_is_timed_and_judged():
    assert len(rows("watch.py", "--only", "cnn", "--steps", "20")) == 2
    command = [sys.executable, "-m", "benchmarks.diagnose.measure", "--part", "building", "--seeds", "1", "-n", "1"]
    only = ["--only", "negated in a function/smooth-mlp", "frozen-batch-norm"]
    out = subprocess.run([*command, *only], capture_output=True, text=True, check=True, cwd=FOLDER.parent).stdout
    assert re.search(r"faults: 1 runs of 1 programs\n +right cause among the findings +100.0%", out)
    assert "sound: 1 runs of 1 programs" in out
