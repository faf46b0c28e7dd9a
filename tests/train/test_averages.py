"""With an optimizer that averages, the averages are evaluated and kept; training goes on from the weights trained."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import RECIPE, noisy, toy

import surefoot as sf
from surefoot.train.data import Batches
from surefoot.train.stop import Interrupted

NAMES = ["schedule-free-sgd", "schedule-free-adamw"]


def recipe(name: str, **changes) -> sf.Recipe:
    if name == "ema":
        return RECIPE.replace(ema=0.9, **changes)
    return RECIPE.replace(optimizer=name, lr=0.05 if "free" in name else None, schedule="constant", **changes)


def hand_written(task: sf.Task, chosen: sf.Recipe) -> tuple[nn.Module, sf.optim.Optimizer]:
    """The loop's training alone, without a look at the validation data."""
    torch.manual_seed(chosen.seed)
    model = task.model()
    optimizer = chosen.create_optimizer(model)
    batches = Batches(task.train, chosen.batch_size, chosen.seed, "training")
    for epoch in range(chosen.epochs):
        model.train()
        for inputs, targets in batches.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model, optimizer


def loss_of(checkpoint, task: sf.Task) -> float:
    model = task.model()
    checkpoint.load_model(model)
    with torch.no_grad():
        return F.cross_entropy(model.eval()(task.val[0]), task.val[1]).item()


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoints_hold_the_averages(tmp_path, name):
    task = toy()
    run = sf.train(task, recipe(name), tmp_path / "run", quiet=True)
    trained, optimizer = hand_written(task, recipe(name))
    y = [p.detach().clone() for p in trained.parameters()]
    model = task.model()
    run.last.load_model(model)
    with optimizer.averaged():
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), trained.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(model.parameters(), y, strict=True))
    held = run.last.state()["optimizer"]["state"]
    assert all(torch.equal(held[i]["y"], p) for i, p in enumerate(y))
    for checkpoint in (run.best, run.last):
        assert loss_of(checkpoint, task) == pytest.approx(checkpoint.values["val/loss"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_is_measured_at_the_averages(tmp_path, name):
    task = toy(model=noisy)
    run = sf.train(task, recipe(name), tmp_path / "run", quiet=True)
    for checkpoint in (run.best, run.last):
        assert loss_of(checkpoint, task) == pytest.approx(checkpoint.values["val/loss"], rel=1e-5)
    model = noisy()
    run.last.load_model(model)
    batches = Batches(task.train, RECIPE.batch_size, RECIPE.seed, "training").epoch(0)
    means = torch.stack([model[0](x).mean(0) for x, _ in batches])
    torch.testing.assert_close(model[1].running_mean, means.mean(0))


def test_validating_changes_no_training(tmp_path):
    tasks = [toy(model=noisy, val=val, metric=None) for val in (None, toy().val)]
    runs = [sf.train(t, recipe(NAMES[1]), tmp_path / str(i), quiet=True) for i, t in enumerate(tasks)]
    assert runs[0].signal("train/loss") == runs[1].signal("train/loss")
    assert runs[0].best is None


@pytest.mark.parametrize("stop_at", [3, 7, 12, 28])
@pytest.mark.parametrize("name", [*NAMES, "prodigy", "ema"])
def test_stopping_and_going_on_changes_nothing(tmp_path, name, stop_at):
    calls = []

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    whole = sf.train(toy(), recipe(name), tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(loss=loss), recipe(name), tmp_path / "run", quiet=True)
    run = sf.train(toy(loss=loss), dir=tmp_path / "run", resume=True, quiet=True)
    for signal_name in ("train/loss", "train/lr", "val/loss", "val/accuracy"):
        assert run.signal(signal_name) == whole.signal(signal_name)
    states = [each.last.state()["optimizer"] for each in (run, whole)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for number, kept in states[1]["state"].items():
        assert kept.keys() == states[0]["state"][number].keys()
        assert all(torch.equal(kept[key], states[0]["state"][number][key]) for key in kept)
    trained = [each.last.state()["trained"] for each in (run, whole)]
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[1])


def test_plain_pytorch_has_no_such_optimizer():
    with pytest.raises(sf.UserError, match="plain PyTorch has no schedule-free"):
        recipe(NAMES[1]).code()


def test_the_exponential_average_is_evaluated_beside_the_raw_weights_and_kept(tmp_path):
    task, chosen = toy(model=noisy), recipe("ema", schedule="constant")
    run = sf.train(task, chosen, tmp_path / "run", quiet=True)
    model, optimizer = hand_written(task, chosen)
    raw = {name: t.detach().clone() for name, t in model.state_dict().items()}
    with optimizer.averaged():
        averages = [p.detach().clone() for p in model.parameters()]
    kept = task.model()
    run.last.load_model(kept)
    assert all(torch.equal(p, q) for p, q in zip(kept.parameters(), averages, strict=True))
    assert all(torch.equal(raw[name], t) for name, t in run.last.state()["trained"].items())
    assert loss_of(run.last, task) == pytest.approx(run.last.values["val/loss"], rel=1e-5)
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(task.val[0]), task.val[1]).item()
    assert run.last.values["val/raw/loss"] == pytest.approx(loss, rel=1e-5)


def test_an_average_changes_no_training(tmp_path):
    runs = [sf.train(toy(model=noisy), RECIPE.replace(ema=ema), tmp_path / str(ema), quiet=True) for ema in (None, 0.9)]
    assert runs[0].signal("train/loss") == runs[1].signal("train/loss")
    raw = [value for _, value in runs[1].signal("val/raw/loss")]
    assert raw == [value for _, value in runs[0].signal("val/loss")]
