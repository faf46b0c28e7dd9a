"""A small task that trains in a moment, and what tests ask of it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import surefoot as sf


def toy(n: int = 64, **changes) -> sf.Task:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 4, generator=generator)
    data = (x, (x.sum(1) > 0).long())
    options = {
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
        "loss": nn.CrossEntropyLoss(),
        "train": data,
        "val": data,
        "metric": sf.metrics.accuracy,
        "name": "toy",
    }
    return sf.Task(**{**options, **changes})


RECIPE = sf.Recipe(lr=0.03, epochs=4, batch_size=10, schedule="linear(0.1, 1, 2) >> cosine", clip_norm=0.5, seed=3)


def weights(task: sf.Task, checkpoint) -> list[torch.Tensor]:
    model = task.model()
    checkpoint.load_model(model)
    return [p.detach() for p in model.parameters()]


def noisy() -> nn.Module:
    """A model to which modes and random numbers matter."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))


def nan_after(step: int):
    seen = []

    def loss(outputs, targets):
        seen.append(1)
        return F.cross_entropy(outputs, targets) * (float("nan") if len(seen) >= step else 1)

    return loss
