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
from surefoot.engine.update import Item, Scales, Update
from surefoot.errors import UserError


@dataclass(frozen=True)
class Member:
    """A parameter whose direction is to be made.

    p: the parameter as it is computed with (half precision in single)
    g: the gradient as a rule is given it: unscaled, clipped, with coupled decay
    kept: its state, where what goes on from step to step may be put
    place: its index in its group
    lr: its rate
    t: which of its steps this is; where they are not counted, 1 for the first and 2 for others
    """

    p: Tensor
    g: Tensor
    kept: dict[str, Any]
    place: int
    lr: float
    t: float


class Preconditioner(Protocol):
    """Makes directions."""

    def shapes(self, p: Tensor, group: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
        """What it keeps in a parameter's state, and how large."""
        ...

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> Sequence[Tensor]:
        """The directions of parameters of one group, as large as they are, in any layout."""
        ...


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
        members = [_member(item, update, options, scales) for item in items]
        made = update.preconditioner.directions(members, update.keep or {})
        found.update({item.number: d for item, d in zip(items, made, strict=True)})
    return found


def _member(item: Item, update: Update, options: Options, scales: Scales) -> Member:
    now = reference.begin(item, update, options, scales)
    return Member(now.x.detach(), now.g.detach(), item.kept, item.place, float(now.lr), now.number)
