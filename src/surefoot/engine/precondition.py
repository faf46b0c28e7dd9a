"""Directions that matrix operations make of gradients, for rules that are `given` one: Muon, SOAP, Shampoo, Adafactor.

They are made with torch's matrix code, all matrices of a shape at once; what is elementwise, the update with all of the
engine's options, stays with the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from surefoot.engine import reference
from surefoot.engine.options import Options
from surefoot.engine.plan import Plan
from surefoot.engine.shards import sharded
from surefoot.engine.sums import numbers
from surefoot.engine.update import Item, Scales, Update
from surefoot.errors import UserError


@dataclass(frozen=True)
class Member:
    """A parameter whose direction is to be made.

    p: the parameter as it is computed with (half precision in single)
    g: the gradient as a rule is given it: unscaled, clipped, with coupled decay
    kept: its state, where what goes on from step to step may be put
    t: which of its steps this is; 0 where steps are not counted
    """

    p: Tensor
    g: Tensor
    kept: dict[str, Any]
    t: float


class Preconditioner(Protocol):
    """Makes directions, of all parameters of a group at once. They are as large as the parameters, in any layout."""

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> Sequence[Tensor]: ...


def directions(plan: Plan, updates: Sequence[Update], options: Options, scales: Scales) -> dict[int, Tensor]:
    """What the parameters of rules that are given something are given, by their numbers."""
    found: dict[int, Tensor] = {}
    for group, update in enumerate(updates):
        if update.preconditioner is None:
            continue
        items = [item for item in plan.planned if item.group == group and item.p.grad is not None]
        for item in items:
            if sharded(item.p):
                raise UserError(
                    f"{update.rule.name} needs whole matrices, and {update.name(group, item.place)} is divided among "
                    "processes (FSDP2): use DistributedDataParallel, or an elementwise optimizer such as AdamW"
                )
        steps = numbers([item.kept["step"] for item in items]) if update.rule.counted else [-1.0] * len(items)
        members = [_member(i, update, options, scales, t + 1) for i, t in zip(items, steps, strict=True)]
        made = update.preconditioner.directions(members, update.keep or {})
        found.update({item.number: d for item, d in zip(items, made, strict=True)})
    return found


def _member(item: Item, update: Update, options: Options, scales: Scales, t: float) -> Member:
    at = reference.begin(item, update, options, scales)
    return Member(at.x, at.g, item.kept, t)
