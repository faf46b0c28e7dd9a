"""MARS."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import mars
from surefoot.rules.rule import Rule


class MARS(Optimizer):
    r"""AdamW on gradients whose variance is reduced by what has changed since the step before.

        c = g + where(t == 1, 0, gamma * beta1 / (1 - beta1)) * (g - before)
        before = g
        c = c / max(norm(c), 1)
        m = beta1 * m + (1 - beta1) * c
        v = beta2 * v + (1 - beta2) * c^2
        p = p - lr * ((m / (1 - beta1^t)) / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay * p)

    The authors train matrices alone with it, and vectors (biases, norms) with AdamW at (0.9, 0.95): put these into an
    optimizer of their own. Here a group is as you give it.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled, as in AdamW
        gamma: how much of the change since the last gradient is added
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Yuan et al. 2024 (arXiv:2411.10438), algorithms 2 and 3 (MARS-AdamW), with the last batch's gradient, which
    the paper calls approximate, and with a norm for each tensor as in the authors' code; names and defaults as there.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.MARS([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = (*Optimizer.positive, "gamma")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (mars.mars,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return mars.mars

    def decoupled(self, group: Group) -> bool:
        return True
