"""What the data look like: inputs and targets of training and of validation, added up over batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from surefoot.task.trees import tensors
from surefoot.watch.picks import Floats, places
from surefoot.watch.series import Series

USUAL, ODD = 6, 15.0  # a batch is odd if it is so many times as large as so many before it
FEW = 16  # items, of which none is odd by itself
MOST_FEATURES, MOST_ROWS = 256, 4096  # of a batch that are looked at
MOST_CLASSES = 1000
MOST_BATCHES = 256
TARGETS = "the targets"
NUMBERS = ("count", "low", "high", "broken", "batches", "odd")
MOST_ITEMS = 4096  # items whose fingerprints are kept


@dataclass
class Moments:
    """Mean and standard deviation of each feature, over all that was added; what is not finite is counted apart.

    >>> m = Moments()
    >>> m.add(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
    >>> m.mean.tolist(), m.std.tolist(), m.low, m.high
    ([2.0, 10.0], [1.0, 0.0], 1.0, 10.0)
    """

    count: float = 0.0
    total: Any = 0.0
    squares: Any = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    broken: int = 0
    batches: int = 0
    odd: int = 0  # batches far larger than those before, or with items far larger than the rest; these are not added

    def add(self, rows: Tensor) -> None:
        """Rows `[items, features]`."""
        rows = rows.detach()[:, :: -(-rows.shape[1] // MOST_FEATURES)]
        rows = rows if len(rows) <= MOST_ROWS else rows[places(len(rows), MOST_ROWS).to(rows.device)]
        finite = rows.isfinite()
        if not bool(finite.all()):
            self.broken += int((~finite).sum())
            rows = rows[finite.all(1)]
        if not rows.numel() or (self.count and np.size(self.total) != rows.shape[1]):
            return
        part: Floats = rows.double().cpu().numpy()
        energy = np.square(part).mean(1)
        lower = np.sort(energy)[: -(-9 * len(energy) // 10)]
        before = float(np.mean(np.atleast_1d(self.squares))) / max(self.count, 1)
        usual = max(float(lower.mean()), before)
        outliers = energy > ODD**2 * usual
        if usual and outliers.any() and len(part) >= FEW:  # single items that are far larger than the rest
            self.odd += 1
            part = part[~outliers]
        total, squares = part.sum(0), np.square(part).sum(0)
        if self.batches >= USUAL and squares.mean() / len(part) > ODD**2 * np.mean(self.squares) / self.count:
            self.odd += 1
            return
        self.batches += 1
        self.count += len(part)
        self.total = self.total + total
        self.squares = self.squares + squares
        self.low, self.high = min(self.low, float(part.min())), max(self.high, float(part.max()))

    @property
    def mean(self) -> Floats:
        return np.atleast_1d(self.total / max(self.count, 1))

    @property
    def std(self) -> Floats:
        return np.sqrt(np.maximum(np.atleast_1d(self.squares / max(self.count, 1)) - self.mean**2, 0))


@dataclass
class Data:
    """The inputs and targets of one purpose, training or validation.

    inputs: by their place in what the model is called with
    targets: of numbers; classes: how often each whole number came
    batches: for each batch the number of items, and the mean target or the share of each class
    """

    inputs: dict[str, Moments] = field(default_factory=dict[str, Moments])
    targets: Moments = field(default_factory=Moments)
    classes: dict[int, int] = field(default_factory=dict[int, int])
    batches: Series[tuple[float, dict[int, float]]] = field(default_factory=lambda: Series(MOST_BATCHES))
    whole: bool = True  # whether all targets were whole numbers
    kind: str = ""  # "classes" (one index an item), "numbers", or "" where unknown
    shape: tuple[int, ...] = ()  # of one item's target
    size: float = 0.0  # items of a batch

    def add_inputs(self, inputs: Any) -> None:
        for place, t in tensors(inputs):
            if t.is_floating_point() and t.ndim > 1 and t.layout == torch.strided and t.numel():
                self.inputs.setdefault(place, Moments()).add(by_feature(t))

    def add_targets(self, targets: Any) -> None:
        if not isinstance(targets, Tensor) or not targets.numel() or targets.is_complex() or targets.ndim == 0:
            return
        t = targets.detach()
        self.size, self.shape = float(len(t)), tuple(t.shape[1:])
        if t.is_floating_point():
            self.kind = "numbers"
            self.whole = self.whole and bool((t == t.round()).all())
            rows = t.reshape(len(t), -1)
            odd = self.targets.odd
            self.targets.add(rows)
            if self.targets.odd > odd:
                return
            first: list[float] = rows[:, :: -(-rows.shape[1] // 16)].double().mean(0).tolist()  # pyright: ignore
            self.batches.append((float(len(t)), dict(enumerate(first))))
            return
        self.kind = "classes"
        values, counts = cast("tuple[Tensor, Tensor]", torch.unique(t, return_counts=True))  # pyright: ignore
        found: dict[int, int] = dict(zip(values.tolist(), counts.tolist(), strict=True))  # pyright: ignore
        for value, count in found.items():
            if value in self.classes or len(self.classes) < MOST_CLASSES:
                self.classes[value] = self.classes.get(value, 0) + count
        largest = sorted(found, key=lambda value: -found[value])[:16]
        self.batches.append((float(len(t)), {value: found[value] / t.numel() for value in largest}))

    def moments(self) -> dict[str, Moments]:
        """Those of inputs and targets, by name."""
        return {**self.inputs, TARGETS: self.targets}

    def rest(self) -> dict[str, Any]:
        """What is known but for its arrays."""
        moments = {place: {name: getattr(m, name) for name in NUMBERS} for place, m in self.moments().items()}
        return {"moments": moments, "plain": {name: getattr(self, name) for name in ("whole", "kind", "shape", "size")}}


def by_feature(t: Tensor) -> Tensor:
    """Inputs as rows of features; of images, a feature is a channel."""
    return t.movedim(1, -1).reshape(-1, t.shape[1]) if t.ndim > 3 else t.reshape(-1, t.shape[-1])


class Batches:
    """What is known of the data so far."""

    def __init__(self) -> None:
        self.train, self.val = Data(), Data()
        self.items: set[int] = set()  # fingerprints of training items
        self.first: set[int] = set()  # and those of the first batch

    @property
    def full(self) -> bool:
        return len(self.items) >= MOST_ITEMS

    def remember(self, inputs: Any) -> bool:
        """Take note of training items, to know them again.

        Returns:
            whether items of the very first batch have come again: then an epoch is over
        """
        prints = fingerprints(inputs, 1024)
        if not self.full:
            self.items.update(prints)
        if not self.first:
            self.first = set(prints[:256])
            return False
        return sum(p in self.first for p in prints[:256]) >= min(2, len(self.first))

    def known(self, inputs: Any) -> float:
        """The share of items that training has used."""
        prints = fingerprints(inputs)
        return sum(p in self.items for p in prints) / len(prints) if prints else 0.0

    def arrays(self) -> dict[str, Floats]:
        """What is known, as far as it is many numbers."""
        found = {"items": np.array(sorted(self.items), float), "first": np.array(sorted(self.first), float)}
        for name in ("train", "val"):
            data: Data = getattr(self, name)
            rows = data.batches.items
            found[f"{name} sizes"] = np.array([(size, len(shares)) for size, shares in rows], float).reshape(-1, 2)
            found[f"{name} shares"] = np.array([pair for _, shares in rows for pair in shares.items()], float).reshape(
                -1, 2
            )
            found[f"{name} classes"] = np.array(list(data.classes.items()), float).reshape(-1, 2)
            for place, moments in data.moments().items():
                found[f"{name} {place} sums"] = np.array([np.atleast_1d(moments.total), np.atleast_1d(moments.squares)])
        return found

    def rest(self) -> dict[str, Any]:
        """All the rest."""
        return {name: getattr(self, name).rest() for name in ("train", "val")}

    def load(self, arrays: Mapping[str, Floats], rest: Mapping[str, Any]) -> None:
        """Take up what `arrays` and `rest` gave."""
        self.items, self.first = ({int(x) for x in arrays[name]} for name in ("items", "first"))
        for name in ("train", "val"):
            plain: dict[str, Any] = {**rest[name]["plain"], "shape": tuple(rest[name]["plain"]["shape"])}
            data = Data(**plain)
            for place, numbers in rest[name]["moments"].items():
                total, squares = arrays[f"{name} {place} sums"]
                moments = Moments(total=total, squares=squares, **numbers)
                if place == TARGETS:
                    data.targets = moments
                else:
                    data.inputs[place] = moments
            data.classes = {int(value): int(count) for value, count in arrays[f"{name} classes"]}
            shares = iter(arrays[f"{name} shares"].tolist())
            for size, number in arrays[f"{name} sizes"].tolist():
                data.batches.items.append((size, {int(key): share for key, share in islice(shares, int(number))}))
            setattr(self, name, data)


def fingerprints(inputs: Any, most: int = 64) -> list[int]:
    """A number for each of the first items of a batch that tells it from others: their bits, times fixed odd numbers,
    added up."""
    first = next((t for _, t in tensors(inputs) if t.ndim and t.numel() and t.layout == torch.strided), None)
    if first is None:
        return []
    rows = first.detach()[:most].reshape(min(len(first), most), -1)[:, :512].cpu()
    rows = rows.float() if rows.dtype == torch.bfloat16 else rows
    bits = np.ascontiguousarray(rows.numpy()).view(np.uint8)
    bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)
    bits = (bits ^ (bits >> np.uint64(29))) * FACTORS[: bits.shape[1]]
    return cast("list[int]", (bits.sum(1, dtype=np.uint64) >> np.uint64(16)).tolist())


FACTORS = np.random.default_rng(0).integers(1 << 62, 1 << 63, 1024, np.uint64) * np.uint64(2) + np.uint64(1)
