"""Yogi."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import yogi
from surefoot.rules.rule import Rule


class Yogi(Optimizer):
    r"""Adam whose second moment grows and shrinks by at most a share of the squared gradient.

        m0 = initial_accumulator
        v0 = initial_accumulator
        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * sign(v - g * g) * g * g
        p = p - lr * (m / (1 - beta1 ^ t)) / (sqrt(v) / sqrt(1 - beta2 ^ t) + eps)

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        initial_accumulator: what m and v start at
        weight_decay: L2 penalty, added to the gradient
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Zaheer et al. 2018 (NeurIPS), algorithm 2; defaults of section 5.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Yogi([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9001, -1.9000])
    """

    positive: ClassVar = ("lr", "eps", "weight_decay", "initial_accumulator")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (yogi.yogi,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-3,
        initial_accumulator: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return yogi.yogi
