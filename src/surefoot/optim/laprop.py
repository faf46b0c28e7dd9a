"""LaProp."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import laprop
from surefoot.rules.rule import Rule


class LaProp(Optimizer):
    r"""AdamW that averages gradients after they were normalised, so that betas can be chosen freely.

        v = beta2 * v + (1 - beta2) * g^2
        m = beta1 * m + (1 - beta1) * g / (sqrt(v) / sqrt(1 - beta2^t) + eps)
        p = p - lr * (m / (1 - beta1^t) + weight_decay * p)

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled, and in proportion to lr, as in AdamW
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Ziyin, Wang & Ueda 2020 (arXiv:2002.04839), algorithm 1; names and defaults as in the authors' code, which
    takes rates of the past into m, and decays whatever the rate.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.LaProp([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (laprop.laprop,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 4e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return laprop.laprop

    def decoupled(self, group: Group) -> bool:
        return True
