"""The noisy quadratic of DeepOBS (Schneider, Balles & Hennig 2019, arXiv:1903.05499): `quadratic_deep`.

    loss(theta) = mean over x of  1/2 (theta - x)' Q (theta - x),   x ~ N(0, 0.6^2 I),   theta starts at all ones

Q has 90 eigenvalues from (0, 1) and 10 from (30, 60), in a random rotated basis: the shape of deep networks'
Hessians (Chaudhari et al. 2017, arXiv:1611.01838). Spectrum, noise, sizes and start are DeepOBS's; the draw of the
rotation is our own.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.task.recipe import Recipe
from surefoot.task.task import Task

DIMENSIONS, ITEMS, NOISE = 100, 1000, 0.6


def deep() -> Task:
    """The task: 1,000 draws to train on, 1,000 others to validate on."""
    recipe = Recipe(optimizer="sgd-momentum", lr=2e-3, schedule="cosine", epochs=60, batch_size=128)
    return Task(model=Quadratic, step=mean_loss, train=draws(42), val=draws(43), recipe=recipe)


class Quadratic(nn.Module):
    """Draws `[N, 100]` to their losses `[N]`."""

    hessian: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(DIMENSIONS))
        self.register_buffer("hessian", hessian())

    def forward(self, x: Tensor) -> Tensor:
        offset = self.theta - x
        return 0.5 * ((offset @ self.hessian) * offset).sum(1)


def mean_loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).mean()


@cache
def draws(seed: int) -> Tensor:
    """The data `[1000, 100]`."""
    return torch.tensor(np.random.RandomState(seed).normal(0.0, NOISE, (ITEMS, DIMENSIONS)), dtype=torch.float32)


@cache
def hessian() -> Tensor:
    """Q `[100, 100]`."""
    random = np.random.RandomState(42)
    eigenvalues = np.concatenate([random.uniform(0, 1, 90), random.uniform(30, 60, 10)])
    basis, r = np.linalg.qr(random.normal(size=(DIMENSIONS, DIMENSIONS)))
    basis = basis * np.sign(np.diag(r))  # makes the draw uniform over rotations and reflections
    return torch.tensor((basis * eigenvalues) @ basis.T, dtype=torch.float32)


def floor(x: Tensor) -> float:
    """The least loss that any theta has on the data x: the noise floor."""
    return loss_at(x.mean(0), x)


def loss_at(theta: Tensor, x: Tensor) -> float:
    """The loss of one theta on the data x, in double precision."""
    offset = (theta - x).double()
    return float(0.5 * ((offset @ hessian().double()) * offset).sum(1).mean())
