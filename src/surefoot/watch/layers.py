"""What enters the layers that have weights: dead, saturated and equal units, scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surefoot.optim.places import modules
from surefoot.watch.graph import SELECTING, behind, operation
from surefoot.watch.picks import Floats, Singles, places, spread

MOST_LAYERS = 16
ROWS = 8  # fewer items do not show that a unit is dead
MOST_ROWS, MOST_UNITS = 64, 256  # of a batch that are looked at
NEAR = 0.03  # a sigmoid or tanh is at its limit when this share of its range is left

FIELDS = ("scale", "mean", "zeros", "dead", "equal", "spread", "saturated", "units", "rows", "bent")
BENT = {"Relu", "Threshold", "LeakyRelu", "Hardtanh", "Clamp"}
LIMITS = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Hardtanh": (-1.0, 1.0)}
PASSING = SELECTING | {
    "Reshape", "Expand", "Flatten", "NativeDropout", "Mul", "MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D",
    "Mean", "Cat", "Stack",
}  # fmt: skip
KINDS = (
    nn.Linear,
    nn.modules.conv._ConvNd,  # pyright: ignore[reportPrivateUsage]
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


class Layers:
    """Looks at what enters layers, where it is switched on."""

    def __init__(self, model: nn.Module) -> None:
        every: list[tuple[str, nn.Module]] = [(name, part) for name, part in modules(model) if isinstance(part, KINDS)]
        self.layers: list[tuple[str, nn.Module]] = spread(every, MOST_LAYERS)
        self.seen: dict[str, tuple[str, Singles]] = {}
        self.others: dict[str, nn.Module] = {}  # of which only whether they run is of interest
        self.ran: set[str] = set()
        self._handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Look at the next forward pass."""
        self.seen = {}
        if not self._handles:
            self._handles = [part.register_forward_pre_hook(self._hook(name)) for name, part in self.layers]
            for name, part in self.others.items():
                self._handles.append(part.register_forward_pre_hook(self._noting(name)))

    def table(self) -> Floats:
        """What was seen of each layer, `[layers, fields]`; NaN of those that did not run."""
        table = np.full((len(self.layers), len(FIELDS)), np.nan)
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, (name, _) in enumerate(self.layers):
            if name in self.seen:
                alike.setdefault(self.seen[name][1].shape, []).append(i)
        for same in alike.values():  # those of one shape together: a third of the time
            found = [self.seen[self.layers[i][0]] for i in same]
            table[same] = measured(np.array([rows for _, rows in found], np.float64), [made for made, _ in found])
        return table

    def end(self) -> None:
        """Look no more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.seen = [], {}

    def _noting(self, name: str) -> Callable[..., None]:
        return lambda *_: self.ran.add(name)

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.ran.add(name)
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and torch.is_grad_enabled():
                channels_first = isinstance(module, nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]
                with torch.no_grad():
                    self.seen[name] = sampled(args[0], channels_first)

        return look


def sampled(x: Tensor, channels_first: bool = False) -> tuple[str, Singles]:
    """The operation that made a tensor of activations, and some items of it (of images: places), `[items, units]`; a
    unit is a feature, or a channel."""
    made = operation(behind(x.grad_fn, PASSING))
    rows = _rows(x.detach(), channels_first)
    some = rows[:, :: -(-rows.shape[1] // MOST_UNITS)].float().cpu()
    return made, np.array(some.numpy(), np.float32)


def measured(rows: Floats, made: Sequence[str]) -> Floats:
    """What activations of several layers look like, `[layers, items, units]` to `[layers, fields]`.

    scale: root mean square; mean; zeros: the share of zeros; dead: that of units which are zero for all items;
    saturated: that of units which are at their limit for nearly all items; equal: that of units which are as another
    one is; spread: the mean standard deviation over items, relative to the scale
    """
    count, items, units = rows.shape
    zero = rows == 0
    table = np.zeros((count, len(FIELDS)))
    with np.errstate(all="ignore"):
        numbers = {
            "scale": np.sqrt(np.square(rows).mean((1, 2))), "mean": rows.mean((1, 2)), "zeros": zero.mean((1, 2)),
            "dead": zero.all(1).mean(1) if items >= ROWS else 0.0,
            "equal": (rows[:, :, 1:] == rows[:, :, :-1]).all(1).mean(1) if units > 1 else 0.0,
            "spread": rows.std(1).mean(1), "units": units, "rows": items, "bent": [name in BENT for name in made],
        }  # fmt: skip
    for name, values in numbers.items():
        table[:, FIELDS.index(name)] = values
    for i, name in enumerate(made):
        if name in LIMITS:
            low, high = LIMITS[name]
            room = NEAR * (high - low)
            at_limit = (rows[i] < low + room) | (rows[i] > high - room)
            table[i, FIELDS.index("saturated")] = (at_limit.mean(0) > 0.9).mean()
    return table


def _rows(x: Tensor, channels_first: bool) -> Tensor:
    """Some items (of images: places) as rows of units."""
    if x.ndim < 2:
        return x.reshape(1, -1)
    if channels_first and x.ndim > 2:
        spots = x.flatten(2)
        some = places(len(x) * spots.shape[2], MOST_ROWS).to(x.device)
        return spots[some // spots.shape[2], :, some % spots.shape[2]]
    rows = x.reshape(-1, x.shape[-1])
    return rows if len(rows) <= MOST_ROWS else rows[places(len(rows), MOST_ROWS).to(x.device)]
