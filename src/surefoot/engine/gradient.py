"""The first pass: the norms of the gradient, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from surefoot.engine import reference
from surefoot.engine.lane import Floats
from surefoot.engine.launch import SUMS
from surefoot.engine.options import Norms, Options
from surefoot.engine.plan import Plan
from surefoot.engine.sums import Sums, numbers
from surefoot.errors import UserError, unknown


class Gradient:
    """The gradient of all parameters with the loss scale removed, before clipping.

    rows: what the lanes' `norms` returned. Where that lies on a device, its numbers are waited for when they are read
    """

    def __init__(self, plan: Plan, groups: int, options: Options, loss_scale: float | Tensor) -> None:
        self._clip = options.clip_norm
        self._loss_scale = loss_scale
        self._largest = options.largest
        self._number = groups
        self.of_tensors: dict[str, float] = {}  # factors of single parameters, once `factors` was asked
        items = [item for item in plan.items if item.p.grad is not None]
        self.rows = [lane.norms(options) for lane in plan.lanes]
        # no tensor but the results is held: a report may be kept for long
        self._groups_of_rows = [(lane.row_groups, lane.group_rows, lane.form.split) for lane in plan.lanes]
        of_items = [reference.norm(item.p.grad, self._largest) for item in items if item.p.grad is not None]
        self._of_items = [(item.group, norm) for item, (norm, _) in zip(items, of_items, strict=True)]
        self._gather = np.maximum if self._largest else np.add
        self.sums = Sums(plan, self.rows, of_items, len(SUMS["norm"]), self._gather)

    @cached_property
    def _found(self) -> list[float]:
        """For each group the sum of squares, or the largest size."""
        found = [0.0] * self._number
        parts = list(zip([g for g, _ in self._of_items], numbers([n for _, n in self._of_items]), strict=True))
        for (groups, first, split), rows in zip(self._groups_of_rows, self.sums.rows, strict=True):
            of_groups = np.zeros(self._number)  # a part without elements has no rows, but is waited for
            of_groups[groups] = self._gather.reduceat(rows[:, 0], first)
            parts += enumerate(of_groups if split is None else split.total(of_groups, self._largest))
        for group, part in parts:
            found[group] = float(self._gather(found[group], part))
        return found

    @cached_property
    def groups(self) -> list[float]:
        """The norm of each parameter group's part."""
        return self._norm(np.array(self._found)).tolist()

    @cached_property
    def total(self) -> float:
        """The norm."""
        return self.groups[0] if self._number == 1 else float(self._norm(self._gather.reduce(self._found)))

    @cached_property
    def tensors(self) -> dict[str, float]:
        """The norm of each parameter's gradient, by name."""
        return dict(zip(self.sums.names, self._norm(self.sums.table[:, 0]).tolist(), strict=True))

    def fault(self) -> str:
        """Where the gradient holds a NaN or an infinity, or ""."""
        if math.isfinite(self.total):
            return ""
        where = [name for name, bad in zip(self.sums.names, self.sums.table[:, 1], strict=True) if bad]
        if not where:  # finite, but their squares are not
            return ""
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        return f"the gradient of {', '.join(where[:3])}{more} holds a NaN or an infinity"

    def factors(self) -> list[float]:
        """For each parameter group, what its gradient is multiplied by."""
        clip, groups = self._clip, len(self.groups)
        if clip is None:
            return [1.0] * groups
        if clip.error_if_nonfinite and not math.isfinite(self.total):
            where = self.fault() or "the sum of squares overflows"
            raise UserError(f"the norm of the gradient is {self.total}, and error_if_nonfinite is set: {where}")
        if callable(clip.max_norm):
            found = clip.max_norm(Norms(self.total, self.groups, self.tensors))
            self.of_tensors = _each(found, self.tensors) if isinstance(found, Mapping) else {}
            factors = [1.0] * groups if isinstance(found, Mapping) else _of_groups(found, groups)
            every = [*factors, *self.of_tensors.values()]
            if math.isfinite(self.total) and not all(0 <= factor < math.inf for factor in every):
                wrong = next(factor for factor in every if not 0 <= factor < math.inf)
                raise UserError(f"the clip_norm function must return factors from 0 to below infinity, not {wrong}")
            return factors
        norms = self.groups if clip.per_group else [self.total] * groups
        return [factor(clip.max_norm, norm) for norm in norms]

    def _norm(self, found: Floats) -> Floats:
        return (found if self._largest else np.sqrt(found)) / float(self._loss_scale)


def factor(max_norm: float, norm: float) -> float:
    """What a gradient of this norm is multiplied by to clip it."""
    found = float(max_norm) / (norm + 1e-6)
    return 1.0 if found >= 1 else found  # a NaN stays one, as in torch


def _each(returned: Mapping[str, float], known: Mapping[str, float]) -> dict[str, float]:
    """A clip function's answer as factors of parameters."""
    for name in returned:
        if name not in known:
            raise unknown("parameter in what the clip_norm function returned:", str(name), known)
    try:
        return {name: float(factor) for name, factor in returned.items()}
    except (TypeError, ValueError):
        raise UserError(f"the clip_norm function must return numbers for parameters, not {returned!r}") from None


def _of_groups(returned: float | Sequence[float], groups: int) -> list[float]:
    """A clip function's answer as one factor for each group."""
    try:
        factors = [float(f) for f in returned] if isinstance(returned, Sequence) else [float(returned)] * groups
    except (TypeError, ValueError):
        raise UserError(
            f"the clip_norm function must return a factor, or one for each group, not {returned!r}"
        ) from None
    if len(factors) != groups:
        raise UserError(f"the clip_norm function returned {len(factors)} factors for {groups} parameter groups")
    return factors
