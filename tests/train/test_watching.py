"""The loop watches itself: what it finds is in the run, its events and its summary, also of a resumed run."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import surefoot as sf
from surefoot.train.stop import Interrupted


def task(*last: nn.Module) -> sf.Task:
    x = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2), *last)

    return sf.Task(model=model, loss=nn.CrossEntropyLoss(), train=(x, y), val=(x + 0.01, y), metric=sf.metrics.accuracy)


RECIPE = sf.Recipe(optimizer="adamw", lr=0.01, epochs=12, batch_size=16)


def codes(run: sf.Run) -> list[str]:
    return [finding["cause"] for finding in run.findings]


def test_a_fault_is_in_the_run_its_events_and_its_summary(tmp_path):
    run = sf.train(task(nn.Softmax(1)), RECIPE, tmp_path / "run", quiet=True)
    assert codes(run)[0] == "output-activation"
    assert run.summary["findings"] == run.findings
    told = [event.facts["cause"] for event in run.events("finding")]
    assert "output-activation" in told
    assert codes(sf.Run(tmp_path / "run")) == codes(run)


def test_a_sound_training_is_left_alone(tmp_path):
    assert [f for f in sf.train(task(), RECIPE, tmp_path / "run", quiet=True).findings if f["severity"] != "info"] == []


@pytest.mark.parametrize("last", [(), (nn.Softmax(1),)])
def test_watching_changes_nothing(last, tmp_path):
    one = sf.train(task(*last), RECIPE, tmp_path / "watched", quiet=True)
    two = sf.train(task(*last), RECIPE, tmp_path / "alone", quiet=True, watch=False)
    assert two.findings == []
    assert one.signal("train/loss") == two.signal("train/loss")
    ours, theirs = one.last.weights_dict(), two.last.weights_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.mark.parametrize("stop_at", [3, 41, 77])
def test_a_resumed_run_finds_what_the_whole_one_does(tmp_path, stop_at):
    """Also where it stopped between two steps that are watched closely."""
    calls: list[int] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.cross_entropy(outputs, targets)

    plain = task(nn.Softmax(1))
    whole = sf.train(replace(plain, loss=nn.functional.cross_entropy), RECIPE, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(replace(plain, loss=loss), RECIPE, tmp_path / "two", quiet=True)
    run = sf.train(replace(plain, loss=loss), dir=tmp_path / "two", resume=True, quiet=True)
    assert len(calls) == 96
    assert codes(run)[0] == "output-activation"
    assert run.findings == whole.findings
    assert {n: run.signal(n) for n in run.signals} == {n: whole.signal(n) for n in whole.signals}


def test_what_the_watch_measured_is_in_the_record(tmp_path):
    run = sf.train(task(), RECIPE, tmp_path / "run", quiet=True)
    ratios, cosines = run.signal("watch/update_ratio"), run.signal("watch/cosine")
    assert len(ratios) > 8
    assert {step - 1 for step, _ in cosines} <= {step for step, _ in ratios}
    assert all(0 < ratio < 1 for _, ratio in ratios)
    assert all(-1.001 <= cosine <= 1.001 for _, cosine in cosines)
    assert "watch/grad_norm/0.weight" in run.signals
