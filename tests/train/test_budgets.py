"""How long a training goes on, when it evaluates, and who is told."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch.nn import functional as F
from toys import RECIPE, toy

import surefoot as sf
from surefoot.train.stop import Interrupted


def steps(run: sf.Run, name: str) -> list[int]:
    return [step for step, _ in run.signal(name)]


def test_a_budget_of_steps_ends_in_mid_epoch_with_an_evaluation(tmp_path):
    run = sf.train(toy(), RECIPE.replace(steps=10), tmp_path / "run", quiet=True)
    assert steps(run, "train/loss") == list(range(1, 11))
    assert steps(run, "val/loss") == [7, 10]
    assert (run.last.step, run.last.epoch, run.summary["status"]) == (10, 1, "finished")
    assert run.last.values["val/loss"] == run.signal("val/loss")[-1][1]


def test_the_schedule_spans_the_budget(tmp_path):
    recipe = RECIPE.replace(steps=10, schedule="linear(1, 0)", schedule_every="step")
    run = sf.train(toy(), recipe, tmp_path / "run", quiet=True)
    assert [lr for _, lr in run.signal("train/lr")] == pytest.approx([0.03 * (1 - i / 10) for i in range(10)])


def test_evaluation_every_so_many_steps(tmp_path):
    run = sf.train(toy(), RECIPE.replace(evaluate_every=5), tmp_path / "run", quiet=True)
    assert steps(run, "val/loss") == [5, 10, 15, 20, 25, 28]
    assert run.summary["epochs"] == 4
    shape = RECIPE.shape(4)
    assert [lr for _, lr in run.signal("train/lr")] == pytest.approx([0.03 * shape(step // 7) for step in range(28)])


def test_a_budget_of_time(tmp_path):
    def loss(outputs, targets):
        time.sleep(0.02)
        return F.cross_entropy(outputs, targets)

    began = time.monotonic()
    run = sf.train(toy(loss=loss), RECIPE.replace(seconds=0.3, epochs=1000), tmp_path / "run", quiet=True)
    assert 0.3 <= time.monotonic() - began < 5
    assert run.summary["status"] == "finished"
    assert run.summary["reason"] == "the time limit of 0.3 s is over"
    assert run.last.step == run.summary["steps"] < 100


def test_patience(tmp_path):
    falling = itertools.chain([5.0, 4.0], itertools.repeat(4.0))
    values = iter(falling)

    def loss(outputs, targets):
        value = F.cross_entropy(outputs, targets)
        return value if torch.is_grad_enabled() else value * 0 + next(values)

    data = (torch.zeros(4, 4), torch.zeros(4).long())
    recipe = RECIPE.replace(epochs=50, early_stop="plateau(patience=3)")
    run = sf.train(toy(loss=loss, val=data), recipe, tmp_path / "run", quiet=True)
    assert [v for _, v in run.signal("val/loss")] == [5.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert "gets no better" in run.summary["reason"]
    assert run.summary["status"] == "finished"


def test_patience_goes_on_where_it_stopped(tmp_path):
    recipe = RECIPE.replace(epochs=60, lr=0.3, early_stop="plateau(patience=2, threshold=0.1)")
    whole = sf.train(toy(), recipe, tmp_path / "whole", quiet=True)
    assert whole.summary["steps"] < 60 * 7

    def stop(t):
        if t.position.step == whole.summary["steps"] - 10:
            import signal

            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        sf.train(toy(), recipe, tmp_path / "run", quiet=True, callbacks={"step": stop})
    run = sf.train(toy(), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.signal("val/loss") == whole.signal("val/loss")
    assert run.summary["reason"] == whole.summary["reason"]


def test_callbacks_are_called_where_they_say(tmp_path):
    seen = []
    points = {name: (lambda t, name=name: seen.append((name, t.position.step))) for name in
              ("start", "step", "evaluation", "checkpoint", "end")}  # fmt: skip
    sf.train(toy(), RECIPE.replace(epochs=1), tmp_path / "run", quiet=True, callbacks=points)
    assert seen == [("start", 0), *(("step", i) for i in range(1, 8)), ("evaluation", 7), ("checkpoint", 7), ("end", 7)]


def test_a_callback_may_stop_the_training(tmp_path):
    def enough(t):
        if t.position.step == 5:
            t.stop("five are enough")

    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True, callbacks={"step": enough})
    assert (run.summary["status"], run.summary["reason"], run.last.step) == ("finished", "five are enough", 5)
    assert "val/loss" in run.last.values


def test_an_error_in_a_callback_names_it(tmp_path):
    def breaks(t):
        raise KeyError("mine")

    with pytest.raises(sf.UserError, match=r"the callback .*breaks \('step', at step 1\) raised KeyError\('mine'\)"):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True, callbacks={"step": breaks})


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [({"stop": print}, "unknown point of a training stop: did you mean step"), ({"step": 3}, "must be a function")],
)
def test_callbacks_that_cannot_be_are_refused(tmp_path, callbacks, words):
    with pytest.raises(sf.UserError, match=words):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True, callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_the_ledger_tells_what_happened(tmp_path):
    run = sf.train(toy(), RECIPE.replace(accumulate=2), tmp_path / "run", quiet=True)
    ledger = run.summary["ledger"]
    assert ledger["steps"] == 16  # of 7 batches, two a step
    assert (ledger["samples"], ledger["repeated"], ledger["effective_batch"]) == (256, 192, 16.0)
    assert (ledger["skipped"], ledger["rollbacks"], ledger["schedule"]) == (0, 0, 4)
    assert set(ledger["time"]) == {"data", "forward", "backward", "step", "evaluate", "save"}
    assert sum(ledger["time"].values()) == pytest.approx(1, abs=1e-3)
