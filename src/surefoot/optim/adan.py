"""Adan."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import adan
from surefoot.rules.rule import Rule


class Adan(Optimizer):
    r"""Adam with Nesterov momentum, which averages of the gradient and of its change stand for.

        change = where(t == 1, 0, g - before)
        before = g
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * change
        n = beta3 * n + (1 - beta3) * (g + beta2 * change)^2
        u = (m / (1 - beta1^t) + beta2 * v / (1 - beta2^t)) / (sqrt(n) / sqrt(1 - beta3^t) + eps)
        p = (p - lr * u) / (1 + lr * weight_decay)

    It keeps four states, one of them the last gradient.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step; higher ones than Adam's are usual
        betas: (beta1, beta2, beta3), how much of m, v and n is kept from step to step: 1 minus those of the paper
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled from the gradient, and proximal: it divides instead of subtracting
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Xie et al. 2022 (arXiv:2208.06677), algorithm 1, with bias corrections as in the authors' code; names and
    defaults as there.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Adan([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    shares: ClassVar = {"betas": 3}
    rules: ClassVar = (adan.adan,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adan.adan

    def decoupled(self, group: Group) -> bool:
        return True
