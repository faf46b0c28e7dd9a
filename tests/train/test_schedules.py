"""Recipes' schedules in the loop: feedback by the validation loss, lengths in units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surefoot as sf


def task(batches: int = 4) -> sf.Task:
    """One parameter that the loss does not depend on: it gets no better."""
    x = torch.zeros(8 * batches, 1)
    return sf.Task(model=lambda: nn.Linear(1, 1, bias=False), loss=nn.MSELoss(), train=(x, x + 1), val=(x, x + 1))


def rates(run: sf.Run) -> list[float]:
    return [value for _, value in run.signal("train/lr")]


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_a_plateau_is_told_the_validation_loss_once_an_epoch(tmp_path, every):
    recipe = sf.Recipe(
        optimizer="sgd", lr=1.0, schedule="plateau(0.5, patience=1)", schedule_every=every, epochs=6, batch_size=8
    )
    run = sf.train(task(batches=2), recipe, tmp_path / "run", quiet=True)
    # the first is the best one; two bad ones are one too many, and then the count begins anew
    assert rates(run)[::2] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_it_is_resumed(tmp_path, monkeypatch):
    recipe = sf.Recipe(optimizer="sgd", lr=1.0, schedule="plateau(0.5, patience=1)", epochs=6, batch_size=8)
    whole = sf.train(task(2), recipe, tmp_path / "whole", quiet=True)
    sf.train(task(2), recipe.replace(epochs=2), tmp_path / "part", quiet=True)
    (tmp_path / "part" / "recipe.toml").write_text(recipe.to_toml())
    part = sf.train(task(2), dir=tmp_path / "part", resume=True, quiet=True)
    assert rates(part) == rates(whole)


@pytest.mark.parametrize(
    ("schedule", "every", "wanted"),
    [
        ("linear(0, 1, 2ep) >> constant", "step", [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]),
        ("linear(0, 1, 8st) >> constant", "epoch", [0] * 4 + [0.5] * 4 + [1] * 4),
        ("linear(0, 1, 64sa) >> constant", "step", [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]),
        ("linear(1, 0, 50%)", "step", [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_lengths_have_units(tmp_path, schedule, every, wanted):
    recipe = sf.Recipe(optimizer="sgd", lr=1.0, schedule=schedule, schedule_every=every, epochs=3, batch_size=8)
    run = sf.train(task(), recipe, tmp_path / "run", quiet=True)
    assert rates(run) == pytest.approx(wanted)


def test_a_unit_that_a_run_does_not_count_is_refused(tmp_path):
    recipe = sf.Recipe(schedule="cosine(1e6tok)")
    with pytest.raises(sf.UserError, match="1000000tok: say how many tokens"):
        sf.train(task(), recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
