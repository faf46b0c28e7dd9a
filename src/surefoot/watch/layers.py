"""What enters the layers that have weights: dead, saturated and equal units, scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surefoot.watch.graph import SELECTING, behind, operation
from surefoot.watch.picks import Floats, spread

MOST_LAYERS = 16
ROWS = 8  # fewer items do not show that a unit is dead
MOST_ROWS, MOST_UNITS = 64, 256  # of a batch that are looked at
NEAR = 0.03  # a sigmoid or tanh is at its limit when this share of its range is left

FIELDS = ("scale", "mean", "zeros", "dead", "equal", "spread", "saturated", "units", "rows", "bent")
NOTHING = (math.nan,) * len(FIELDS)
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
        every: list[tuple[str, nn.Module]] = [
            (name, part) for name, part in cast("Any", model).named_modules() if isinstance(part, KINDS)
        ]
        self.layers: list[tuple[str, nn.Module]] = spread(every, MOST_LAYERS)
        self.seen: dict[str, Sequence[float]] = {}
        self.ran: set[str] = set()
        self._handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Look at the next forward pass."""
        self.seen = {}
        if not self._handles:
            self._handles = [part.register_forward_pre_hook(self._hook(name)) for name, part in self.layers]

    def table(self) -> Floats:
        """What was seen of each layer, `[layers, fields]`; NaN of those that did not run."""
        return np.array([self.seen.get(name, NOTHING) for name, _ in self.layers]).reshape(-1, len(FIELDS))

    def end(self) -> None:
        """Look no more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.seen = [], {}

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.ran.add(name)
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and torch.is_grad_enabled():
                with torch.no_grad():
                    self.seen[name] = measured(args[0], channels_first=isinstance(module, nn.modules.conv._ConvNd))  # pyright: ignore

        return look


def measured(x: Tensor, channels_first: bool = False) -> Sequence[float]:
    """What a tensor of activations looks like; a unit is a feature, or a channel.

    scale: root mean square; mean; zeros: the share of zeros; dead: that of units which are zero for all items;
    saturated: that of units which are at their limit for nearly all items; equal: that of units which are as another
    one is; spread: the mean standard deviation over items, relative to the scale
    """
    made = operation(behind(x.grad_fn, PASSING))
    rows = _rows(x.detach(), channels_first)
    units = rows.shape[1]
    rows = rows[:, :: -(-units // MOST_UNITS)].double().cpu().numpy()
    zero = rows == 0
    saturated = 0.0
    if made in LIMITS:
        low, high = LIMITS[made]
        room = NEAR * (high - low)
        saturated = float((((rows < low + room) | (rows > high - room)).mean(0) > 0.9).mean())
    with np.errstate(all="ignore"):
        return (
            math.sqrt(np.square(rows).mean()), float(rows.mean()), float(zero.mean()),
            float(zero.all(0).mean()) if len(rows) >= ROWS else 0.0,
            float((rows[:, 1:] == rows[:, :-1]).all(0).mean()) if units > 1 else 0.0,
            float(rows.std(0).mean()), saturated, units, len(rows), float(made in BENT),
        )  # fmt: skip


def _rows(x: Tensor, channels_first: bool) -> Tensor:
    """Some items (of images: places) as rows of units."""
    if x.ndim < 2:
        return x.reshape(1, -1)
    if channels_first and x.ndim > 2:
        places = x.flatten(2)
        every = torch.arange(0, len(x) * places.shape[2], -(-len(x) * places.shape[2] // MOST_ROWS), device=x.device)
        return places[every // places.shape[2], :, every % places.shape[2]]
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: -(-len(rows) // MOST_ROWS)]
