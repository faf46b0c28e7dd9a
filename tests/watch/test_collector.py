"""Steps that are not watched closely lose nothing of the loss; validation is what this model did, and no other."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import surefoot as sf


def data(rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(rows, 4)
    return x, (x[:, 0] > 0).long()


class Loop:
    """A watched training, step by step."""

    def __init__(self, *parts: nn.Module, told: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *parts, nn.Linear(8, 2))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.criterion, self.told = nn.CrossEntropyLoss(), told
        self.watch = sf.watch(self.model, self.optimizer, loss=None if told else self.criterion, quiet=True)
        self.losses: list[float] = []
        self.collector = self.watch._collector

    def step(self, scale: float = 1.0) -> None:
        x, y = data()
        self.optimizer.zero_grad()
        out = self.model(x * scale)
        loss = self.criterion(out, y)
        if self.told:
            self.watch.observe(loss=loss, outputs=out, targets=y)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())

    def until_light(self) -> None:
        while not (self.collector._light.on and self.collector._light.left > 4):
            self.step()


@pytest.mark.parametrize("told", [False, True])
def test_every_loss_and_rate_is_kept(told):
    loop = Loop(told=told)
    for step in range(300):
        loop.optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        loop.step()
    loop.watch.close()
    signals = loop.collector.signals
    assert loop.watch.blind.get("watch") is None
    assert signals.counts.closely < 150  # or nothing was left out, and this tests nothing
    np.testing.assert_allclose(signals.column("loss"), loop.losses, rtol=1e-6)
    np.testing.assert_allclose(signals.column("lr"), [1e-2 / (1 + step) for step in range(300)])
    assert signals.column("step").tolist() == list(range(1, 301))


def test_a_validation_between_two_steps_that_are_not_watched_closely():
    loop = Loop(nn.Dropout(0.5))
    loop.until_light()
    at = len(loop.losses)
    with torch.no_grad():
        x, y = data(64)
        value = loop.criterion(loop.model(x), y)  # in training mode
    loop.step()
    loop.step()
    loop.watch.close()
    (seen,) = loop.collector.signals.validations.items
    assert (seen.step, seen.loss) == (at, pytest.approx(value.item()))
    assert [finding.cause for finding in loop.watch.findings] == ["train-mode"]


def test_the_criterion_asked_of_a_teacher_is_no_validation_in_training_mode():
    loop = Loop(nn.Dropout(0.5))
    teacher = copy.deepcopy(loop.model).eval()
    for _ in range(80):
        loop.step()
        with torch.no_grad():
            x, y = data(64)
            loop.criterion(teacher(x), y)
    loop.watch.close()
    assert loop.collector.signals.counts.validated_in_train_mode == 0


def test_a_broken_loss_is_seen_with_its_data_wherever_it_comes():
    loop = Loop()
    loop.until_light()
    at = len(loop.losses)
    x, y = data()
    x[3, 1] = float("nan")
    loop.optimizer.zero_grad()
    loop.criterion(loop.model(x), y).backward()
    loop.optimizer.step()
    for _ in range(3):
        loop.step()
    loop.watch.close()
    finding = loop.watch.findings[0]
    assert (finding.cause, finding.first_step) == ("non-finite-input", at)


def test_weights_that_are_frozen_and_freed_again_do_not_end_the_watch():
    loop = Loop()
    for step in range(120):
        for p in loop.model[0].parameters():
            p.requires_grad_(step % 3 > 0)
        loop.step()
    loop.watch.close()
    assert "watch" not in loop.watch.blind
    assert len(loop.collector.signals.steps) == 120


def test_asleep_sees_nothing_and_wakes_as_it_was():
    loop = Loop()
    loop.until_light()
    seen = loop.collector.step, len(loop.collector.signals.steps)
    with loop.collector.asleep():
        assert not any(part._forward_pre_hooks for part in loop.model.modules())
        loop.step()
    loop.collector.read()
    assert loop.collector.step == seen[0] + len(loop.collector._light._ends)
    loop.losses.pop()
    for _ in range(40):
        loop.step()
    loop.watch.close()
    np.testing.assert_allclose(loop.collector.signals.column("loss"), loop.losses, rtol=1e-6)


def test_batches_are_kept_as_copies():
    loop = Loop()
    x, y = data()
    loop.optimizer.zero_grad()
    loop.criterion(loop.model(x), y).backward()
    loop.optimizer.step()
    (inputs, targets) = loop.collector.kept[-1]
    assert torch.equal(inputs, x)
    assert torch.equal(targets, y)
    x.zero_()
    assert inputs.any()
    for _ in range(200):
        loop.step()
    assert len(loop.collector.kept) == 8
