"""The first pass: the norms of the gradient, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from surefoot.engine import reference
from surefoot.engine.lane import Floats
from surefoot.engine.launch import SUMS
from surefoot.engine.options import Norms, Options
from surefoot.engine.plan import Plan
from surefoot.engine.sums import Sums, numbers
from surefoot.errors import UserError


class Gradient:
    """The gradient of all parameters with the loss scale removed, before clipping.

    total: its norm
    groups: the norm of each parameter group's part
    """

    def __init__(self, plan: Plan, groups: int, options: Options, unscale: float) -> None:
        self._clip = options.clip_norm
        self._unscale = unscale
        self._largest = options.largest
        items = [item for item in plan.items if item.p.grad is not None]
        of_lanes = [lane.norms(options) for lane in plan.lanes]
        of_items = [reference.norm(item.p.grad, self._largest) for item in items if item.p.grad is not None]
        gather = np.maximum if self._largest else np.add
        self.sums = Sums(plan, of_lanes, of_items, len(SUMS["norm"]), gather)
        found = [0.0] * groups
        parts = [(item.group, part) for item, part in zip(items, numbers([norm for norm, _ in of_items]), strict=True)]
        for lane, rows in zip(plan.lanes, of_lanes, strict=True):
            of_groups = np.zeros(groups)  # a part without elements has no rows, but is waited for
            of_groups[lane.row_groups] = gather.reduceat(rows[:, 0], lane.group_rows)
            parts += enumerate(
                of_groups if lane.form.split is None else lane.form.split.total(of_groups, self._largest)
            )
        for group, part in parts:
            found[group] = float(gather(found[group], part))
        self.groups: list[float] = self._norm(np.array(found)).tolist()
        self.total = self.groups[0] if groups == 1 else float(self._norm(gather.reduce(found)))

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
            factors = _each(clip.max_norm(Norms(self.total, self.groups, self.tensors)), groups)
            if math.isfinite(self.total) and not all(0 <= factor < math.inf for factor in factors):
                raise UserError(f"the clip_norm function must return factors from 0 to below infinity, not {factors}")
            return factors
        norms = self.groups if clip.per_group else [self.total] * groups
        return [_factor(clip.max_norm, norm) for norm in norms]

    def _norm(self, found: Floats) -> Floats:
        return (found if self._largest else np.sqrt(found)) * self._unscale


def _factor(max_norm: float, norm: float) -> float:
    factor = float(max_norm) / (norm + 1e-6)
    return 1.0 if factor >= 1 else factor  # a NaN stays one, as in torch


def _each(returned: float | Sequence[float], groups: int) -> list[float]:
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
