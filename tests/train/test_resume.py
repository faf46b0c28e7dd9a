"""Stopping, and going on as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import RECIPE, noisy, toy, weights

import surefoot as sf
from surefoot.train.prove import compare
from surefoot.train.stop import Interrupted


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop_at", [3, 7, 12, 28])
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_stopping_and_going_on_changes_nothing(tmp_path, stop_at, signum, every):
    """Stopped after any step, the resumed run ends at the weights and the record of the one never stopped."""
    recipe, calls = RECIPE.replace(schedule_every=every), []

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signum)
        return F.cross_entropy(outputs, targets)

    whole = sf.train(toy(), recipe, tmp_path / "whole", quiet=True)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        sf.train(toy(loss=loss), recipe, tmp_path / "run", quiet=True)
    assert stopped.value.signum == signum
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    run = sf.Run(tmp_path / "run")
    assert run.last.step == run.summary["steps"] == stop_at
    assert run.summary["status"] == "interrupted"

    run = sf.train(toy(loss=loss), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.summary["status"] == "finished"
    pairs = zip(weights(toy(), run.last), weights(toy(), whole.last), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    for name in ("train/loss", "train/lr", "train/grad_norm", "val/loss", "val/accuracy"):
        assert run.signal(name) == whole.signal(name)
    assert compare(run.last.state(), whole.last.state())[1] == ""


@pytest.mark.parametrize("point", ["step", "evaluation", "checkpoint"])
def test_stopping_at_the_end_of_an_epoch_leaves_no_trace(tmp_path, point):
    """Nothing in the state differs from that of the run that was not stopped, whichever moment it was."""

    def stop(t):
        if t.position.step == 14:
            signal.raise_signal(signal.SIGINT)

    recipe = RECIPE.replace(steps=17, ema=0.9, early_stop="plateau(patience=9)")
    whole = sf.train(toy(), recipe, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(), recipe, tmp_path / "run", quiet=True, callbacks={point: stop})
    run = sf.train(toy(), dir=tmp_path / "run", resume=True, quiet=True)
    assert compare(run.last.state(), whole.last.state())[1] == ""
    assert run.signal("val/loss") == whole.signal("val/loss")


def test_stopping_while_validating(tmp_path):
    calls = []

    def metric(outputs, targets):
        calls.append(1)
        if len(calls) == 10:  # in the second validation
            signal.raise_signal(signal.SIGINT)
        return sf.metrics.accuracy(outputs, targets)

    metric.__name__ = "accuracy"
    whole = sf.train(toy(), RECIPE, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
    run = sf.train(toy(), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.signal("val/loss") == whole.signal("val/loss")
    assert run.signal("train/lr") == whole.signal("train/lr")


def test_a_second_signal_stops_at_once(tmp_path):
    def loss(outputs, targets):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    with pytest.raises(Interrupted, match="at once"):
        sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()  # nothing had happened yet


def test_resuming_refuses_another_task_or_recipe(tmp_path, caplog):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    with pytest.raises(sf.UserError, match="trains toy, not other"):
        sf.train(toy(name="other"), dir=run.dir, resume=True)
    with pytest.raises(sf.UserError, match=r"a resumed run keeps its recipe: lr is 0\.03"):
        sf.train(toy(), RECIPE.replace(lr=1.0), dir=run.dir, resume=True)
    with pytest.raises(sf.UserError, match="there is no run in"):
        sf.train(toy(), dir=tmp_path / "none", resume=True)
    assert run.task["source"].endswith("toys.py")
    assert "has changed" not in caplog.text
    (run.dir / "task.json").write_text(json.dumps({**run.task, "sha256": "of another day"}))
    again = sf.train(toy(), RECIPE, dir=run.dir, resume=True, quiet=True)  # finished: nothing is left to do
    assert again.summary["steps"] == 28
    assert "the file of toy has changed" in caplog.text


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    whole = sf.train(toy(), RECIPE, tmp_path / "whole", quiet=True)
    killed = sf.Run.create(tmp_path / "run", toy(), RECIPE)
    run = sf.train(toy(), dir=killed.dir, resume=True, quiet=True)
    assert run.signal("train/loss") == whole.signal("train/loss")


def test_resuming_never_removes_anything(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = weights(toy(), run.last)
    (run.dir / "record.sqlite").unlink()
    (run.dir / "checkpoints" / "index.json").unlink()
    again = sf.train(toy(), dir=run.dir, resume=True, quiet=True)  # the newest checkpoint is found without its index
    assert all(torch.equal(p, q) for p, q in zip(weights(toy(), again.last), before, strict=True))
    assert again.summary["steps"] == 28


@pytest.mark.parametrize("file", ["task.json", "recipe.toml", "checkpoints/index.json", "record.sqlite", "state"])
def test_damaged_files_are_named(tmp_path, file):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    path = run.last.path / "state.safetensors" if file == "state" else run.dir / file
    path.write_bytes(b"[damaged\n" * 9)
    with pytest.raises(sf.UserError, match=path.name):
        sf.train(toy(), dir=run.dir, resume=True, quiet=True)
    assert run.dir.is_dir()


def test_another_model_is_refused(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    with pytest.raises(sf.UserError, match="does not fit the model"):
        sf.train(toy(model=noisy), dir=run.dir, resume=True, quiet=True)


def test_two_processes_never_train_in_one_directory(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = run.summary
    with run.opened(), pytest.raises(sf.UserError, match="another process is training"):
        sf.train(toy(), dir=run.dir, resume=True, quiet=True)
    assert run.summary == before


def test_stopping_before_the_first_step(tmp_path):
    class Model(nn.Linear):
        def train(self, mode=True):
            signal.raise_signal(signal.SIGINT)
            return super().train(mode)

    with pytest.raises(Interrupted, match="before the first step"):
        sf.train(toy(model=lambda: Model(4, 2)), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_signal_in_the_last_moment_is_not_lost(tmp_path, monkeypatch):
    save = sf.Run.save

    def stops(run, *args, **kwargs):
        save(run, *args, **kwargs)
        if args[2] == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sf.Run, "save", stops)
    with pytest.raises(Interrupted, match="complete"):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert sf.Run(tmp_path / "run").summary["status"] == "finished"


def test_ignored_signals_stay_ignored(tmp_path):
    def loss(outputs, targets):
        signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
        assert run.summary["status"] == "finished"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffling_dataloader_is_resumed_in_mid_epoch(tmp_path, workers):
    data = torch.utils.data.TensorDataset(*toy().train)
    calls = []

    def loader():
        return torch.utils.data.DataLoader(data, batch_size=10, shuffle=True, num_workers=workers)

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    recipe = RECIPE.replace(epochs=2)
    whole = sf.train(toy(train=loader()), recipe, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(loss=loss, train=loader()), recipe, tmp_path / "run", quiet=True)
    run = sf.train(toy(train=loader()), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.signal("train/loss") == whole.signal("train/loss")


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        x, y = toy().train
        for i in itertools.count():
            yield x[i % 64], y[i % 64]


def test_a_stream_trains_by_steps_and_is_resumed(tmp_path, caplog):
    recipe = RECIPE.replace(steps=20, schedule_every="step")

    def stop(t):
        if t.position.step == 9:
            signal.raise_signal(signal.SIGINT)

    whole = sf.train(toy(train=Endless()), recipe, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(train=Endless()), recipe, tmp_path / "run", quiet=True, callbacks={"step": stop})
    run = sf.train(toy(train=Endless()), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.signal("train/loss") == whole.signal("train/loss")
    assert "9 batches are passed over" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "a stream, which has no epochs: give the recipe steps="),
        ({"steps": 5}, "let the schedule count steps"),
    ],
)
def test_a_stream_has_no_epochs(tmp_path, changes, words):
    with pytest.raises(sf.UserError, match=words):
        sf.train(toy(train=Endless()), RECIPE.replace(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
