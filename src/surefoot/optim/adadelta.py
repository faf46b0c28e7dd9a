"""Adadelta."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, is_number, options
from surefoot.rules import adadelta
from surefoot.rules.rule import Rule


class Adadelta(Optimizer):
    r"""Steps in units of the steps before, so that the rate needs no unit.

        v = rho * v + (1 - rho) * g * g
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d * d
        p = p - lr * d

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: what the step is multiplied by
        rho: how much of the averages v and u is kept from step to step
        eps: what the first steps come from, and what keeps the quotient finite
        weight_decay: L2 penalty, added to the gradient
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Zeiler 2012 (arXiv:1212.5701), algorithm 1; names and state_dict as torch.optim.Adadelta.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Adadelta([w], lr=100.0)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.6838, -1.6838])
    """

    rules: ClassVar = (adadelta.adadelta,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adadelta.adadelta

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not (is_number(group["rho"]) and 0 <= group["rho"] <= 1):
            raise self._refusal("rho", group["rho"], "it must be a number from 0 to 1")
