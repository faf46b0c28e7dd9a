"""Data that the outside programs share: most of it is noisy by a known amount, so that the loss has a floor."""

from __future__ import annotations

import functools
import inspect
import math

import torch
from torch import Tensor

from benchmarks.diagnose.healthy.data import drawn


def blobs(seed: int, rows: int, columns: int = 16, classes: int = 4, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Normal clouds that overlap, one per class: [N, columns] of deviation about 1, and labels."""
    g = drawn(seed)
    centres = torch.randn(classes, columns, generator=g)
    labels = torch.randint(classes, (rows,), generator=g)
    x = centres[labels] + spread * torch.randn(rows, columns, generator=g)
    return x / math.sqrt(1 + spread**2), labels


def rare(seed: int, rows: int, share: float, columns: int = 12, apart: float = 3.5) -> tuple[Tensor, Tensor]:
    """Two clouds, the second of which holds only `share` of the rows."""
    g = drawn(seed)
    labels = (torch.rand(rows, generator=g) < share).long()
    way = torch.randn(columns, generator=g)
    x = torch.randn(rows, columns, generator=g) + apart * labels[:, None] * way / way.norm()
    return x, labels


def flipped(labels: Tensor, share: float, seed: int, classes: int) -> Tensor:
    """The labels, of which `share` are drawn anew among all classes."""
    g = drawn(seed + 77)
    other = torch.randint(classes, labels.shape, generator=g)
    return torch.where(torch.rand(labels.shape, generator=g) < share, other, labels)


def sums(seed: int, rows: int, length: int, tokens: int, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """Tokens [N, L], and at each position the token plus the one before it, modulo their number; a share is noise."""
    g = drawn(seed)
    x = torch.randint(tokens, (rows, length), generator=g)
    y = (x + torch.cat([torch.zeros(rows, 1, dtype=torch.long), x[:, :-1]], 1)) % tokens
    return x, flipped(y, noise, seed, tokens)


def low_rank(seed: int, rows: int, columns: int = 32, rank: int = 4, noise: float = 0.3) -> Tensor:
    """Points near a plane of `rank` dimensions, [N, columns]."""
    g = drawn(seed)
    plane = torch.randn(rank, columns, generator=g) / math.sqrt(rank)
    return torch.randn(rows, rank, generator=g) @ plane + noise * torch.randn(rows, columns, generator=g)


def linear(seed: int, rows: int, columns: int, noise: float) -> tuple[Tensor, Tensor]:
    """Normal inputs and a linear answer of deviation 1 with normal noise of the given deviation, [N, 1]."""
    g = drawn(seed)
    x, way = torch.randn(rows, columns, generator=g), torch.randn(columns, 1, generator=g)
    return x, x @ way / way.norm() + noise * torch.randn(rows, 1, generator=g)


@functools.cache
def source() -> tuple[Tensor, int]:
    """Source of the standard library as codes of characters [N], and how many characters there are."""
    import argparse
    import ast
    import difflib
    import inspect as itself
    import tarfile
    import typing

    letters = "\n abcdefghijklmnopqrstuvwxyz.,()'-_=:#\"[]"
    written = "".join(inspect.getsource(m) for m in (argparse, ast, difflib, itself, tarfile, typing)).lower()
    codes = [letters.find(c) for c in written.replace("    ", " ")]
    return torch.tensor([code for code in codes if code >= 0]), len(letters)
