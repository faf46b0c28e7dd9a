"""Dry runs and overfitting: a verdict, why, what to do, and the figures; and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from toys import RECIPE, toy

import surefoot as sf
from surefoot.cli import main
from surefoot.task.load import load
from surefoot.train.dry_run import dry_run

BROKEN = """
import torch, surefoot as sf

def task():
    x = torch.randn(64, 4)
    model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(1))
    data = (x, (x.sum(1) > 0).long())
    return sf.Task(model=model, loss=torch.nn.CrossEntropyLoss(), train=data, val=data, metric=sf.metrics.accuracy)
"""


def test_a_dry_run_reports_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = dry_run(toy(), RECIPE)
    assert tried.sound
    facts = tried.facts
    assert facts["model"] == "Sequential, 58 trainable parameters"
    assert facts["data"] == "64 items, 7 batches an epoch"
    assert facts["batch"] == "(float32 [10, 4], int64 [10])"
    assert facts["batch 1"] == "from 0 to 1"
    assert "guessing among 2 classes would be 0.6931" in facts["loss"]
    assert facts["steps"].startswith("28, ")
    assert "MB at most" in facts["memory"]
    assert "val/accuracy" in facts["validation"]
    assert str(tried).startswith("dry run: nothing wrong was found\n")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_fails_as_the_training_would():
    with pytest.raises(sf.UserError, match=r"failed at step 1, on the batch \(float32 \[10, 4\], int64 \[10\]\)"):
        dry_run(toy(model=lambda: torch.nn.Linear(5, 2)), RECIPE)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(BROKEN)
    assert main(["train", "mine.py:task", "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert "  output-activation: a softmax stands before the cross-entropy" in out
    assert main(["train", "digits-mlp", "--dry-run", "--batch-size", "32"]) == 0
    assert "45 batches an epoch" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["mine.py"]


@pytest.mark.parametrize("name", ["digits-cnn", "digits-mlp", "stdlib-gpt", "stdlib-gru", "quadratic-deep"])
def test_nothing_is_wrong_with_the_built_in_tasks(name):
    task = load(name)
    data = task.train[:64] if isinstance(task.train, torch.Tensor) else task.train
    assert dry_run(task, (task.recipe or sf.Recipe()).replace(batch_size=4)).findings == []
    assert len(data)
