"""What the passes over the tensors leave: sums over chunks of tensors, and their totals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from surefoot.engine.lane import Floats, per_tensor
from surefoot.engine.plan import Plan


class Sums:
    """Sums for each parameter that had a gradient, worked out when they are read.

    lanes: for each lane of the plan what its launch left, [rows, width], perhaps on a device
    items: for each of the plan's items with a gradient as many 0-d tensors, or none
    gather: how a tensor's chunks make up the tensor
    """

    def __init__(
        self,
        plan: Plan,
        lanes: Sequence[Floats | Tensor],
        items: Sequence[Sequence[Tensor]],
        width: int,
        gather: np.ufunc = np.add,
    ) -> None:
        # no tensor but the results is held: a report may be kept for long
        self._lanes = [
            (lane.first_row, lane.active, rows, lane.form.split) for lane, rows in zip(plan.lanes, lanes, strict=True)
        ]
        self._items, self._width, self._gather = items, width, gather
        self._planned = plan.names
        self._active = [item.p.grad is not None for item in plan.items]

    @cached_property
    def rows(self) -> list[Floats]:
        """What each lane's launch left."""
        return [rows.cpu().numpy() if isinstance(rows, Tensor) else rows for _, _, rows, _ in self._lanes]

    @cached_property
    def names(self) -> list[str]:
        """The parameters' names."""
        active = [np.ones(len(first) - 1, bool) if mask is None else mask for first, mask, _, _ in self._lanes]
        mask = np.concatenate([*active, self._active]).astype(bool)
        return [name for name, here in zip(self._planned, mask, strict=True) if here]

    @cached_property
    def table(self) -> Floats:
        """The sums, [parameters, k]."""
        parts = [np.empty((0, self._width))]
        for (first_row, mask, _, split), rows in zip(self._lanes, self.rows, strict=True):
            totals = per_tensor(first_row, rows, self._gather)
            if split is not None:
                totals = split.total(totals, self._gather is np.maximum)
            parts.append(totals if mask is None else totals[mask])
        known = iter(numbers([value for item in self._items for value in item]))
        rows = [[next(known) for _ in item] or [np.nan] * self._width for item in self._items]
        return np.concatenate([*parts, np.reshape(rows, (-1, self._width))])


def numbers(values: Sequence[Tensor]) -> list[float]:
    """The numbers in 0-d tensors, waiting for each device once.

    Of a DTensor's shards the whole is put together: all processes must ask.
    """
    values = [whole(value) for value in values]
    found = [0.0] * len(values)
    for kind in {(value.device, value.dtype) for value in values}:
        places = [i for i, value in enumerate(values) if (value.device, value.dtype) == kind]
        together = torch.stack([values[i].detach() for i in places])
        for i, number in zip(places, cast("list[float]", together.tolist()), strict=True):
            found[i] = number
    return found


def whole(value: Any) -> Tensor:
    """A number that may be spread over processes, which must all ask."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
