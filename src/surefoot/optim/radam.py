"""RAdam."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import radam
from surefoot.rules.rule import Rule


class RAdam(Optimizer):
    r"""Adam that waits with its denominator until its variance can be told: a warm-up built in.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        most = 2 / (1 - beta2) - 1
        rho = most - 2 * t * beta2 ^ t / (1 - beta2 ^ t)
        r = sqrt(abs((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)))
        d = where(rho > 5, r * sqrt(1 - beta2 ^ t) / (sqrt(v) + eps), 1)
        p = p - lr * (m / (1 - beta1 ^ t) * d + where(decoupled_weight_decay, weight_decay, 0) * p)

    where g is the gradient plus weight_decay * p, unless that is decoupled.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: L2 penalty, added to the gradient
        decoupled_weight_decay: decay as AdamW does
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Liu et al. 2020 (arXiv:1908.03265), algorithm 2; names and state_dict as torch.optim.RAdam.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.RAdam([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8000, -1.6000])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (radam.radam,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return radam.radam

    def decoupled(self, group: Group) -> bool:
        return group["decoupled_weight_decay"]
