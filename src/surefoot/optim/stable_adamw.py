"""StableAdamW."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import stable_adamw
from surefoot.rules.rule import Rule


class StableAdamW(Optimizer):
    r"""AdamW that slows a tensor down while its second moment has fallen behind its gradient: no loss spikes.

        m = m + (1 - beta1) / (1 - beta1^t) * (g - m)
        v = v + (1 - beta2) / (1 - beta2^t) * (g^2 - v)
        rate = lr / max(rms(g / max(sqrt(v), eps)), 1)
        p = p - rate * (m / (sqrt(v) + eps) + weight_decay * p)

    It takes the place of gradient clipping.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled, as in AdamW
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Wortsman et al. 2023 (arXiv:2304.13013), algorithm 2.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.StableAdamW([w], lr=0.1, weight_decay=0)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (stable_adamw.stable_adamw,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return stable_adamw.stable_adamw

    def decoupled(self, group: Group) -> bool:
        return True
