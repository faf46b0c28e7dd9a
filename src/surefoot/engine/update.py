"""What the optimizer asks of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surefoot.rules.rule import Rule


@dataclass(frozen=True)
class Update:
    """One step of the parameters of one group.

    params, grads, states: side by side, one entry a parameter; a state is what the optimizer keeps for it by name,
        empty before its first step
    hyper: every hyper-parameter that the rule's `scalars` and `start` name
    lr, weight_decay: numbers, or 0-d tensors
    decoupled: weight decay is added to the direction (AdamW) instead of to the gradient (L2)
    maximize: go up the gradient
    differentiable: autograd records the step
    """

    rule: Rule
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    hyper: Mapping[str, Any]
    lr: float | Tensor
    weight_decay: float | Tensor
    decoupled: bool = False
    maximize: bool = False
    differentiable: bool = False
