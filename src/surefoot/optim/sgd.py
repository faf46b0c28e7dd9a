"""Stochastic gradient descent."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.errors import UserError
from surefoot.optim.optimizer import Group, Optimizer, is_number, options
from surefoot.rules import sgd
from surefoot.rules.rule import Rule


class SGD(Optimizer):
    r"""Gradient descent, with heavy-ball or Nesterov momentum on request.

        b = where(t == 1, g, momentum * b + (1 - dampening) * g)
        d = where(nesterov, g + momentum * b, b)
        p = p - lr * where(momentum == 0, g, d)

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        momentum: share of the buffer kept from step to step; 0 keeps none
        dampening: share of each gradient after the first that the buffer does not take
        weight_decay: L2 penalty, added to the gradient
        nesterov: step along the gradient at the look-ahead point; needs momentum and no dampening
        maximize: go up the gradient
        foreach, fused: accepted for torch.optim's sake; they change nothing here
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Polyak 1964, eq. 9; Sutskever et al. 2013 (ICML), eq. 7; names and state_dict as torch.optim.SGD.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8000, -1.6000])
    """

    positive: ClassVar = ("lr", "momentum", "weight_decay")
    rules: ClassVar = (sgd.sgd, sgd.momentum, sgd.nesterov)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        if group["momentum"] == 0:
            return sgd.sgd
        return sgd.nesterov if group["nesterov"] else sgd.momentum

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not is_number(group["dampening"]):
            raise self._refusal("dampening", group["dampening"], "it must be a number")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise UserError("SGD: nesterov=True needs momentum above 0 and dampening 0")
