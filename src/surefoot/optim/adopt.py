"""ADOPT."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import adopt
from surefoot.rules.rule import Rule


class ADOPT(Optimizer):
    r"""Adam that divides a gradient by the second moment of those before it, so that any beta2 converges.

        c = (t - 1)^0.25
        s = min(max(g / max(sqrt(v), eps), -c), c)
        m = beta1 * m + where(t == 1, 0, 1 - beta1) * s
        v = where(t == 1, g^2, beta2 * v + (1 - beta2) * g^2)
        p = p - lr * (m + where(decouple, weight_decay * p, 0))

    So the first step only looks: no parameter moves (but for weight decay).

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: the least that a gradient is divided by
        weight_decay: L2 penalty, added to the gradient
        decouple: decay as AdamW does, whatever the gradient
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Taniguchi et al. 2024 (arXiv:2411.02853), algorithm 2, whose bound on s is the authors' `clip_lambda`; names
    and defaults as in their code.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.ADOPT([w], lr=0.1)
    >>> for _ in range(2):
    ...     opt.zero_grad(); (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9900, -1.9900])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (adopt.adopt,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        decouple: bool = False,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adopt.adopt

    def decoupled(self, group: Group) -> bool:
        return group["decouple"]
