"""Numbers that sums over all parameters of an optimizer change, such as the rate that Prodigy estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine import gpu, reference
from surefoot.engine.options import Options
from surefoot.engine.plan import Plan
from surefoot.engine.sums import whole
from surefoot.engine.update import Scales, Update
from surefoot.rules.rule import Rule


def settle(plan: Plan, updates: Sequence[Update], scales: Scales, options: Options, of_lanes: Sequence[Any]) -> None:
    """Work out the `common` hyper-parameters of each group, and put them where they are kept.

    Args:
        of_lanes: what the lanes' `begin` returned: sums for each tensor
    """
    for rule in {update.rule for update in updates if update.rule.common}:
        parts: list[Tensor] = [
            torch.as_tensor(sums).sum(0)
            for lane, sums in zip(plan.lanes, of_lanes, strict=True)
            if lane.form.rule is rule
        ]
        for item in plan.items:
            update = updates[item.group]
            if update.rule is rule and item.p.grad is not None:
                now = reference.begin(item, update, options, scales)
                parts.append(torch.stack([whole(term) for term in reference.terms(rule, now)]))
        if parts:
            sums = torch.stack([part.to(parts[0].device, torch.float64) for part in parts]).sum(0)
            for update in updates:
                if update.rule is rule:
                    _settle(rule, update, sums)


def _settle(rule: Rule, update: Update, sums: Tensor) -> None:
    """The new values for one group. On a GPU they stay there, and nothing waits for them."""
    assert rule.factors is not None
    assert update.keep is not None
    hyper = [update.hyper[name] for name in rule.hyper]
    if sums.device.type not in gpu.DEVICES:
        hyper = [float(value) for value in hyper]
        update.settled = rule.factors(*sums.tolist(), *hyper)
    else:
        hyper = [torch.as_tensor(value, dtype=torch.float64).to(sums.device, non_blocking=True) for value in hyper]
        update.settled = reference.bound(rule.factors)(*sums, *hyper)
    new = dict(zip(rule.common, update.settled, strict=True))
    if gpu.capturing():  # each replay must find what the last one left
        for name, value in new.items():
            update.keep[name].copy_(value)
    else:
        update.keep.update(new)
