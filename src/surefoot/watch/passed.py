"""What is kept of a forward pass and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.task.trees import mapped, tensors

NAN = float("nan")
LARGE = 1 << 20  # elements of a batch beyond which it is not held on to


@dataclass(eq=False, slots=True)
class Passed:
    """One forward pass and its loss, until the step that it leads to.

    loss: the loss, with its graph only while the pass is looked at
    training: the model's mode; fired: whether backward has reached the loss; weight: with which gradient
    noted: whether its data have been looked at
    """

    loss: Any
    outputs: Any
    targets: Any
    inputs: Any
    indices: Any
    training: bool
    criterion: Any = None
    fired: bool = False
    weight: Tensor | float | None = None
    noted: bool = False

    @property
    def elements(self) -> int:
        """How many numbers its batch has."""
        return sum(t.numel() for tree in (self.inputs, self.targets) for _, t in tensors(tree))

    @property
    def large(self) -> bool:
        return self.elements > LARGE

    def batch(self) -> tuple[Any, Any]:
        """A copy of inputs and targets."""
        return mapped(self.inputs, _copy), mapped(self.targets, _copy)


def _copy(t: Tensor) -> Tensor:
    return t.detach().clone()


def number(value: Tensor) -> Tensor | float:
    """A number (of several their mean) at once where it lies in the computer's memory; as a tensor where a device would
    have to be waited for.

    >>> number(torch.tensor([1.0, 2.0]))
    1.5
    """
    value = _scalar(value)
    return value.item() if value.device.type == "cpu" else value


def numbers(values: Sequence[Tensor | float | None]) -> list[float]:
    """Numbers as such, of which some may be tensors on a device, which is waited for once; NaN of None."""
    found = [NAN if value is None or isinstance(value, Tensor) else float(value) for value in values]
    at = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    if at:
        scalars = [_scalar(cast(Tensor, values[i])) for i in at]
        device = next((t.device for t in scalars if t.device.type != "cpu"), None)
        if device is not None:
            scalars = [t.to(device, non_blocking=True) for t in scalars]
        read = cast("list[float]", torch.stack(scalars).tolist())  # pyright: ignore[reportUnknownMemberType]
        for i, value in zip(at, read, strict=True):
            found[i] = value
    return found


def _scalar(t: Tensor) -> Tensor:
    t = t.detach() if t.requires_grad else t
    t = t if t.dtype == torch.float32 else t.float()
    return t if t.ndim == 0 else t.mean()
