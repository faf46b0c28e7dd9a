"""What the optimizer asks of the engine."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.rules.rule import Rule

if TYPE_CHECKING:
    from surefoot.engine.precondition import Preconditioner


@dataclass  # not frozen: that would triple the time it takes to make one, at each step
class Update:
    """One step of one parameter group. Those of its parameters that have a gradient move.

    params: the parameters
    names: what reports call them; None where they have no names
    hyper: every hyper-parameter that the rule's `scalars` and `start` name
    lr, weight_decay: numbers, or 0-d tensors
    decoupled: weight decay is added to the direction (AdamW) instead of to the gradient (L2)
    maximize: go up the gradient
    differentiable: autograd records the step
    lr_factors, decay_factors: for each parameter, what its rate and its decay are multiplied by; empty: by 1
    first: the number of its first parameter, where the optimizer has others that are not in this step
    clip_factor: what the gradients are multiplied by where the engine does not clip them itself
    preconditioner: what makes the directions that the rule is given
    keep: where new values of the rule's `common` hyper-parameters go
    settled: these values
    """

    rule: Rule
    params: Sequence[Tensor]
    names: Sequence[str] | None
    hyper: Mapping[str, Any]
    lr: float | Tensor
    weight_decay: float | Tensor
    decoupled: bool = False
    maximize: bool = False
    differentiable: bool = False
    lr_factors: Sequence[float] = ()
    decay_factors: Sequence[float] = ()
    first: int = 0
    clip_factor: float = 1.0
    preconditioner: Preconditioner | None = None
    keep: MutableMapping[str, Any] | None = None
    settled: Sequence[Any] = ()

    def alone(self, group: int, place: int, params: Sequence[Tensor], first: int, clip_factor: float) -> Update:
        """The same for one of the parameters, to which `params` must have come down."""
        return replace(
            self,
            params=params,
            names=[self.name(group, place)],
            lr_factors=self.lr_factors[place : place + 1],
            decay_factors=self.decay_factors[place : place + 1],
            first=first,
            clip_factor=clip_factor,
        )

    def name(self, group: int, place: int) -> str:
        """What reports call a parameter."""
        return self.names[place] if self.names else f"group {group}, parameter {place}"

    def factors(self, place: int) -> tuple[float, float]:
        """What the rate and the decay of a parameter are multiplied by."""
        return (
            self.lr_factors[place] if self.lr_factors else 1.0,
            self.decay_factors[place] if self.decay_factors else 1.0,
        )

    @property
    def numeric(self) -> bool:
        """Whether all hyper-parameters are plain numbers and autograd is out of it, as compiled backends need."""
        values = (self.lr, self.weight_decay, *self.hyper.values())
        return not self.differentiable and not any(isinstance(value, Tensor) for value in values)


@dataclass
class Scales:
    """What gradients are multiplied by in a step.

    groups: for each group, as far as the host knows
    tensors: for parameters by their numbers, besides
    gradients: for parameters by their numbers, what is multiplied in the place of `.grad`
    found: on each device the sums that the norm, and so the clip factor, comes from, [., groups, 2]; None: the host
        knows all
    loss_scale: what gradients are divided by, besides
    overflow: if it is not 0, nothing moves
    """

    groups: Sequence[float]
    tensors: Mapping[int, float] = field(default_factory=dict[int, float])
    gradients: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    found: Mapping[torch.device, Tensor] | None = None
    loss_scale: Tensor | None = None
    overflow: Tensor | None = None

    def of(self, item: Item) -> float:
        """For a parameter, as far as the host knows."""
        return self.groups[item.group] * self.tensors.get(item.number, 1.0)


@dataclass(frozen=True)
class Item:
    """A parameter in a plan.

    group, place: the index of its group, and its own in the group
    number: its index among all parameters
    kept: its state
    created: the names in it that the plan has made
    factors: what its rate and its decay are multiplied by
    """

    p: Tensor
    group: int
    place: int
    number: int
    kept: dict[str, Any]
    created: list[str]
    factors: tuple[float, float]
