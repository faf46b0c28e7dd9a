from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surefoot as sf

x, y = torch.randn(6, 4), torch.randint(3, (6,))


def task(**changes) -> sf.Task:
    return sf.Task(**{"model": lambda: nn.Linear(4, 3), "loss": nn.CrossEntropyLoss(), "train": (x, y), **changes})


def loss(outputs, targets):
    return 0.0


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, *, features):
        return self.layer(features)


class Two(Named):
    def forward(self, a, b):
        return self.layer(a + b)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (nn.Linear(4, 3), (x, y)),
        (nn.Linear(4, 3), [x, y]),
        (Named(), {"features": x, "targets": y}),
        (Two(), (x, torch.zeros_like(x), y)),
    ],
)
def test_batches_of_every_kind(model, batch):
    layer = model if isinstance(model, nn.Linear) else model.layer
    outcome = task().outcome(model, batch)
    torch.testing.assert_close(outcome.loss, F.cross_entropy(layer(x), y))
    assert outcome.count == 6


@pytest.mark.parametrize("batch", [x, (x,)])
def test_a_lone_tensor_is_its_own_target(batch):
    model = nn.Linear(4, 4)
    outcome = task(loss=F.mse_loss).outcome(model, batch)
    torch.testing.assert_close(outcome.loss, F.mse_loss(model(x), x))


def test_a_loss_may_be_a_sum_and_a_count():
    summed = task(loss=lambda o, t: (F.cross_entropy(o, t, reduction="sum"), len(t)))
    model = nn.Linear(4, 3)
    torch.testing.assert_close(summed.outcome(model, (x, y)).loss, task().outcome(model, (x, y)).loss)


def test_a_step_replaces_forward_and_loss():
    own = task(loss=None, step=lambda model, batch: (model(batch["x"]).sum(), 12))
    model = nn.Linear(4, 3)
    outcome = own.outcome(model, {"x": x})
    torch.testing.assert_close(outcome.loss, model(x).sum() / 12)
    assert outcome.count == 12


def test_what_is_better():
    by_accuracy, by_loss = task(metric=sf.metrics.accuracy), task()
    by_error = task(metric=sf.metrics.squared_error)
    assert by_accuracy.better({"val/accuracy": 0.9}, {"val/accuracy": 0.8})
    assert not by_accuracy.better({"val/accuracy": 0.8}, {"val/accuracy": 0.8})
    assert by_loss.better({"val/loss": 0.1}, {"val/loss": 0.2})
    assert by_error.better({"val/squared_error": 0.1}, {"val/squared_error": 0.2})
    assert by_loss.better({"val/loss": 0.1}, None)
    assert not by_loss.better({"val/loss": float("nan")}, None)
    assert not by_loss.better({"val/loss": float("nan")}, {"val/loss": 1.0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": nn.Linear(4, 3)}, "not a model: use lambda"),
        ({"model": 3}, "model must be a function"),
        ({"loss": None}, "either loss(outputs, targets) or step"),
        ({"step": lambda m, b: 0}, "either loss(outputs, targets) or step"),
        ({"loss": None, "step": lambda m, b: 0, "metric": sf.metrics.accuracy}, "a metric needs outputs"),
        ({"train": None}, "train= is missing"),
        ({"loss": nn.CrossEntropyLoss}, "loss=CrossEntropyLoss()"),
        ({"loss": "mse"}, "loss must be a function, not 'mse'"),
        ({"metric": "acc"}, "metric must be a function"),
        ({"recipe": {"lr": 1}}, "recipe must be a sf.Recipe"),
        ({"metric": loss}, "a metric must not be called loss"),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(sf.UserError) as error:
        task(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "batch", "words"),
    [
        ({}, "text", "a batch must be"),
        ({}, {"x": x}, "a batch must be"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, (x, y), "loss must return one number as a tensor"),
        ({"loss": lambda o, t: 3.0}, (x, y), "it returned float"),
        ({"loss": lambda o, t: (o.sum(), "n")}, (x, y), "it returned (float32 [], str)"),
        ({"loss": lambda o, t: (o.sum(), 1, 2)}, (x, y), "it returned (float32 [], int, int)"),
    ],
)
def test_batches_and_losses_that_do_not_fit_are_named(changes, batch, words):
    with pytest.raises(sf.UserError) as error:
        task(**changes).outcome(nn.Linear(4, 3), batch)
    assert words in str(error.value)


def test_accuracy():
    images = torch.zeros(2, 3, 4, 4)
    images[:, 1] = 1
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    labels[0, 0, 0] = 2
    assert sf.metrics.accuracy(images, labels) == (31, 32)
    assert sf.metrics.accuracy(torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [1.0]])) == (1, 2)
    with pytest.raises(sf.UserError, match="do not fit"):
        sf.metrics.accuracy(torch.zeros(4, 3), torch.zeros(5))
    with pytest.raises(sf.UserError, match="one shape"):
        sf.metrics.squared_error(torch.zeros(4, 1), torch.zeros(4))
