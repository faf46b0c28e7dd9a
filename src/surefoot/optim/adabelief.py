"""AdaBelief."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import adabelief
from surefoot.rules.rule import Rule


class AdaBelief(Optimizer):
    r"""Adam that steps far where gradients are as expected: its second moment is that of the surprise.

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m) * (g - m) + eps
        d = (m / (1 - beta1 ^ t)) / (sqrt(s) / sqrt(1 - beta2 ^ t) + eps)
        p = p - lr * (d + where(decoupled_weight_decay, weight_decay, 0) * p)

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        betas: (beta1, beta2), how much of m and s is kept from step to step
        eps: added to s at each step, and to its root
        weight_decay: decoupled: parameters shrink by lr * weight_decay, whatever their gradients
        decoupled_weight_decay: False: an L2 penalty, added to the gradient
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Zhuang et al. 2020 (arXiv:2010.07468), algorithm 2; defaults of the authors' code.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.AdaBelief([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8889, -1.8889])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (adabelief.adabelief,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = True,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adabelief.adabelief

    def decoupled(self, group: Group) -> bool:
        return group["decoupled_weight_decay"]
