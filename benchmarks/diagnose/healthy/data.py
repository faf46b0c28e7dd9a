"""The data: scikit-learn's bundled sets, Python's own docstrings, and sets that are drawn by a rule."""

from __future__ import annotations

import functools
import inspect
import math

import torch
from sklearn import datasets
from torch import Tensor


def drawn(seed: int) -> torch.Generator:
    """A generator of its own, so that data do not depend on what the program draws besides."""
    return torch.Generator().manual_seed(seed)


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1797 images of digits, [N, 64] in [0, 1], and their labels: 1440 to train, 357 to validate."""
    found = datasets.load_digits()
    order = torch.randperm(1797, generator=drawn(0))
    x = torch.tensor(found.data, dtype=torch.float32)[order] / 16
    y = torch.tensor(found.target)[order]
    return x[:1440], y[:1440], x[1440:], y[1440:]


@functools.cache
def table(name: str) -> tuple[Tensor, Tensor]:
    """A table of scikit-learn (wine, iris, breast_cancer, diabetes) as it is: features in their own units."""
    found = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    order = torch.randperm(len(found.data), generator=drawn(0))
    return torch.tensor(found.data, dtype=torch.float32)[order], torch.tensor(found.target)[order]


def standardised(x: Tensor) -> Tensor:
    """Each column with mean 0 and deviation 1."""
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)


@functools.cache
def text() -> tuple[Tensor, int]:
    """Docstrings of the standard library as codes of characters [N], and how many characters there are."""
    import argparse
    import calendar
    import collections
    import decimal
    import json
    import logging
    import textwrap

    modules = (argparse, calendar, collections, decimal, json, logging, textwrap)
    found = [inspect.getdoc(m) or "" for m in modules]
    found += [inspect.getdoc(v) or "" for m in modules for _, v in sorted(vars(m).items()) if inspect.isclass(v)]
    letters = "\n abcdefghijklmnopqrstuvwxyz.,()'-"
    written = [letters.find(c) for c in "\n".join(found).lower()]
    return torch.tensor([code for code in written if code >= 0]), len(letters)


def windows(codes: Tensor, length: int) -> Tensor:
    """Every stretch of `length + 1` codes that starts at a multiple of half the length, [N, length + 1]."""
    return codes.unfold(0, length + 1, max(1, length // 2))


def teacher(seed: int, rows: int, columns: int, noise: float, hidden: int = 8) -> tuple[Tensor, Tensor]:
    """Standard normal inputs [N, columns]; what a small random tanh network says of them, scaled to deviation 1,
    and normal noise of the given deviation, [N, 1]."""
    g = drawn(seed)
    x = torch.randn(rows, columns, generator=g)
    inner = torch.randn(columns, hidden, generator=g) / math.sqrt(columns)
    outer = torch.randn(hidden, 1, generator=g)
    y = torch.tanh(1.5 * x @ inner) @ outer
    y = (y - y.mean()) / y.std()
    return x, y + noise * torch.randn(rows, 1, generator=g)


def spirals(seed: int, rows: int, arms: int = 2, noise: float = 0.05, turns: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points on the arms of a spiral, [N, 2] within about [-1.2, 1.2], and the arm each belongs to."""
    g = drawn(seed)
    label = torch.randint(arms, (rows,), generator=g)
    radius = torch.rand(rows, generator=g).sqrt()
    angle = 2 * math.pi * (turns * radius + label / arms)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return x + noise * torch.randn(rows, 2, generator=g), label


def waves(seed: int, rows: int, length: int, noise: float = 0.1) -> Tensor:
    """Sums of two sines of random rate and phase with noise, [N, length], of deviation about 1."""
    g = drawn(seed)
    time = torch.arange(length) * 1.0
    rate = 0.2 + 0.5 * torch.rand(rows, 2, 1, generator=g)
    phase = 2 * math.pi * torch.rand(rows, 2, 1, generator=g)
    return torch.sin(rate * time + phase).sum(1) + noise * torch.randn(rows, length, generator=g)


def shapes(seed: int, rows: int, size: int = 12, noise: float = 0.15) -> tuple[Tensor, Tensor, Tensor]:
    """Images of a square, a disc, a cross or a ring, anywhere, in [0, 1]: [N, 1, size, size]; labels; and masks."""
    g = drawn(seed)
    label = torch.randint(4, (rows,), generator=g)
    centre = 3.5 + (size - 8) * torch.rand(rows, 2, 1, 1, generator=g)
    grid = torch.arange(size) * 1.0
    down, across = (grid[:, None] - centre[:, 0]).abs(), (grid[None, :] - centre[:, 1]).abs()
    far = (down.square() + across.square()).sqrt()
    kinds = torch.stack(
        [
            torch.maximum(down, across) < 2.4,
            far < 2.9,
            (torch.minimum(down, across) < 0.9) & (torch.maximum(down, across) < 3.2),
            (far < 3.3) & (far > 1.7),
        ],
        1,
    )
    mask = kinds[torch.arange(rows), label].float()
    light = 0.2 + 0.6 * mask + noise * torch.randn(rows, size, size, generator=g)
    return light.clamp(0, 1)[:, None], label, mask[:, None]
