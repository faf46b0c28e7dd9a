"""What is kept of a forward pass and its loss, and how numbers are read that may still be on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.task.trees import tensors

NAN = float("nan")
LARGE = 1 << 20  # elements of a batch beyond which it is not held on to until its loss is read


@dataclass(eq=False, slots=True)
class Passed:
    """One forward pass and its loss, until the step that it leads to.

    loss: the loss, with its graph only while the pass is looked at
    training: the model's mode; fired: whether backward has reached the loss, with which gradient
    """

    loss: Any
    outputs: Any
    targets: Any
    inputs: Any
    indices: Any
    training: bool
    criterion: Any = None
    fired: bool = False
    weight: Tensor | None = None

    def slim(self) -> None:
        """Let go of what is not to be held on to until the loss is read."""
        self.outputs = None
        if sum(t.numel() for tree in (self.inputs, self.targets) for _, t in tensors(tree)) > LARGE:
            self.inputs = self.targets = None


def numbers(values: Sequence[Any]) -> list[float]:
    """Numbers as such, of which some are tensors, perhaps on a device, which is waited for once; NaN of None, the mean
    of several."""
    found = [NAN if value is None or isinstance(value, Tensor) else float(value) for value in values]
    at = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    if at:
        scalars: list[Tensor] = [values[i] if values[i].ndim == 0 else values[i].float().mean() for i in at]
        device = next((t.device for t in scalars if t.device.type != "cpu"), scalars[0].device)
        together = torch.stack([t.detach().to(device, torch.float32, non_blocking=True) for t in scalars])
        read = cast("list[float]", together.tolist())  # pyright: ignore[reportUnknownMemberType]
        for i, number in zip(at, read, strict=True):
            found[i] = number
    return found
