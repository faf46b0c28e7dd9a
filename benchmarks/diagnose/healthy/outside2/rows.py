"""Data of this part: sklearn's tables and generators, made prices, Python's own source."""

from __future__ import annotations

import functools
import inspect
import statistics
import textwrap

import torch
from sklearn import datasets
from torch import Tensor

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def parted(x: Tensor, y: Tensor, seed: int, held: float = 0.3) -> Four:
    """Rows shuffled by the seed and parted: inputs and targets to train on, inputs and targets held out."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = int(len(x) * (1 - held))
    return x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]]


def scaled(x: Tensor) -> Tensor:
    """Each column to mean 0 and deviation 1."""
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)


def table(name: str, seed: int, held: float = 0.3) -> Four:
    """One of sklearn's tables with features scaled; measures as targets scaled too, [N, 1]."""
    found = getattr(datasets, f"load_{name}")()
    y = torch.tensor(found.target)
    y = y.long() if name != "diabetes" else scaled(y.float()[:, None])
    return parted(scaled(torch.tensor(found.data, dtype=torch.float32)), y, seed, held)


def generated(maker: str, seed: int, held: float = 0.3, **options: object) -> Four:
    """From one of sklearn's makers, features scaled; real targets scaled too, [N, 1]."""
    x, y = getattr(datasets, f"make_{maker}")(random_state=seed, **options)
    inputs, targets = scaled(torch.tensor(x, dtype=torch.float32)), torch.tensor(y)
    targets = scaled(targets.float()[:, None]) if targets.is_floating_point() else targets.long()
    return parted(inputs, targets, seed, held)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    found = datasets.load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target).long()


def digits(seed: int, held: float = 0.3) -> Four:
    """The 8x8 digits in [0, 1], [N, 1, 8, 8], and their classes."""
    return parted(*_digits(), seed, held)


def blurred(labels: Tensor, share: float, classes: int = 10) -> Tensor:
    """Labels of which a share is drawn anew from all classes."""
    anew = torch.randint(classes, labels.shape)
    return torch.where(torch.rand(labels.shape) < share, anew, labels)


@functools.cache
def source() -> tuple[Tensor, int]:
    """Some of the standard library's text as indices of characters, and how many characters there are."""
    text = "".join(inspect.getsource(module) for module in (statistics, textwrap, functools))
    text = "".join(c if c.isascii() else "?" for c in text)
    letters = sorted(set(text))
    where = {c: i for i, c in enumerate(letters)}
    return torch.tensor([where[c] for c in text]), len(letters)


def homes(rows: int) -> tuple[Tensor, Tensor]:
    """Made like the Californian table: income, age, rooms, people, latitude, longitude; price in 100 000."""
    income = torch.empty(rows).log_normal_(1.2, 0.45)
    age, rooms = torch.rand(rows) * 51 + 1, torch.empty(rows).log_normal_(1.65, 0.25)
    people = torch.empty(rows).log_normal_(7.0, 0.7)
    south = torch.rand(rows) < 0.6
    latitude = torch.where(south, 34.0, 37.8) + 0.7 * torch.randn(rows)
    longitude = torch.where(south, -118.2, -122.0) + 0.7 * torch.randn(rows)
    shore = (latitude - 34) * -0.83 - 118.9 - longitude
    price = 0.42 * income + 0.25 * shore.clamp(-3, 3) + 0.006 * age - 0.05 * rooms + 0.4 + 0.5 * torch.randn(rows)
    return torch.stack([income, age, rooms, people, latitude, longitude], 1), price.clamp(0.15, 5.0)[:, None]
