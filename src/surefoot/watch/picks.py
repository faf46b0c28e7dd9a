"""Some elements of some tensors, by which all of a model's weights, gradients and updates are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_TENSORS = 32
MOST_ELEMENTS = 1024  # of a tensor

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]


class Picks:
    """At most 1,024 elements of at most 32 tensors: evenly spread ones, always the same.

    names: what the tensors are called, in the order of the model
    of: which tensor an element is of; `starts`: where those of a tensor begin
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        every = [(name, p) for name, p in named if p.is_floating_point() and local(p).numel()]
        weights = [pair for pair in every if pair[1].ndim > 1]
        chosen = every if len(every) <= MOST_TENSORS else spread(weights or every, MOST_TENSORS)
        self.names = [name for name, _ in chosen]
        self.tensors = [p for _, p in chosen]
        self.steps = [stride(local(p)) for p in self.tensors]
        self.counts = np.array([-(-local(p).numel() // n) for p, n in zip(self.tensors, self.steps, strict=True)], int)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(int) if chosen else np.zeros(0, int)
        self.sizes = np.array([local(p).numel() for p in self.tensors], float)
        self.matrices = np.array([p.ndim > 1 for p in self.tensors], bool)

    def values(self) -> Floats:
        """The elements themselves."""
        return self.gathered(self.tensors)

    def gradients(self) -> Floats:
        """Those of the gradients; zeros where there is none, NaN where it is sparse."""
        return self.gathered([p.grad for p in self.tensors])

    def gathered(self, tensors: Sequence[Tensor | None]) -> Floats:
        """The elements of tensors of the same shapes."""
        found = [
            _nothing(t, count) if t is None or t.layout != torch.strided else local(t).detach().reshape(-1)[::step]
            for t, count, step in zip(tensors, self.counts.tolist(), self.steps, strict=True)
        ]
        if not found:
            return np.zeros(0)
        device = found[0].device
        if any(part.dtype != torch.float32 or part.device != device for part in found):
            found = [part.to(device, torch.float32) for part in found]
        return torch.cat(found).double().cpu().numpy()

    def sums(self, values: Floats, gather: Callable[..., Any] = np.add.reduceat) -> Floats:
        """For each tensor the sum over its elements."""
        return gather(values, self.starts) if len(self.starts) else np.zeros(0)

    def sizes_of(self, values: Floats) -> Floats:
        """For each tensor the root of the mean square of its elements."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.sqrt(self.sums(values * values) / self.counts)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Some items, the first and the last among them, evenly spread.

    >>> spread("abcdefghi", 3)
    ['a', 'e', 'i']
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def stride(t: Tensor) -> int:
    """The distance between the elements that are picked: one that comes by all columns.

    >>> stride(torch.zeros(128, 64)), stride(torch.zeros(5))
    (9, 1)
    """
    step = -(-t.numel() // MOST_ELEMENTS)
    while math.gcd(step, t.shape[-1] if t.ndim else 1) > 1:
        step += 1
    return step


@cache
def places(count: int, most: int) -> Tensor:
    """At most so many of `count` places, evenly spread but in no step that the data may have too (as images in rows
    do): multiples of the golden ratio.

    >>> places(3, 4).tolist(), places(100, 4).tolist()
    ([0, 1, 2], [0, 23, 61, 85])
    """
    if count <= most:
        return torch.arange(count)
    golden = (math.sqrt(5) - 1) / 2
    return torch.tensor(sorted({int(i * golden % 1 * count) for i in range(most)}))


def local(p: Any) -> Tensor:
    """What of a tensor lies in this process (FSDP's are spread)."""
    return getattr(p, "_local_tensor", p)


def _nothing(t: Tensor | None, count: int) -> Tensor:
    return torch.full((count,), 0.0 if t is None else torch.nan)
