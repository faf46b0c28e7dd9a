"""NAdam and NAdamW."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import nadam
from surefoot.rules.rule import Rule


class NAdam(Optimizer):
    r"""Adam with Nesterov momentum: the step uses the momentum that the next one would have.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        mu = beta1 * (1 - 0.96 ^ (t * momentum_decay) / 2)
        next = beta1 * (1 - 0.96 ^ ((t + 1) * momentum_decay) / 2)
        product0 = 1
        product = product * mu
        u = (1 - mu) / (1 - product) * g + next / (1 - product * next) * m
        p = p - lr * (u / (sqrt(v) / sqrt(1 - beta2 ^ t) + eps) + where(decoupled_weight_decay, weight_decay, 0) * p)

    where g is the gradient plus weight_decay * p, unless that is decoupled.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: L2 penalty, added to the gradient (see NAdamW for the decoupled one)
        momentum_decay: how fast the share of the momentum grows to beta1
        decoupled_weight_decay: decay as AdamW does
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Dozat 2016 (ICLR workshop), algorithm 8; names and state_dict as torch.optim.NAdam.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.NAdam([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8944, -1.8944])
    """

    positive: ClassVar = ("lr", "eps", "weight_decay", "momentum_decay")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (nadam.nadam,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
        return nadam.nadam

    def decoupled(self, group: Group) -> bool:
        return group["decoupled_weight_decay"]


class NAdamW(NAdam):
    r"""NAdam with decoupled weight decay, as AdamW is to Adam.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        mu = beta1 * (1 - 0.96 ^ (t * momentum_decay) / 2)
        next = beta1 * (1 - 0.96 ^ ((t + 1) * momentum_decay) / 2)
        product0 = 1
        product = product * mu
        u = (1 - mu) / (1 - product) * g + next / (1 - product * next) * m
        p = p - lr * (u / (sqrt(v) / sqrt(1 - beta2 ^ t) + eps) + weight_decay * p)

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled: parameters shrink by lr * weight_decay, whatever their gradients
        momentum_decay: how fast the share of the momentum grows to beta1
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Dozat 2016 (ICLR workshop), algorithm 8; Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.NAdamW([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8934, -1.8924])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        momentum_decay: float = 4e-3,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        Optimizer.__init__(self, params, {**options(locals()), "decoupled_weight_decay": True}, engine)
