"""LAMB and LARS: for large batches."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import lamb
from surefoot.rules.rule import Rule


class LAMB(Optimizer):
    r"""AdamW whose step, for each tensor, is lr times as long as the tensor itself: for very large batches.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        u = (m / (1 - beta1^t)) / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay * p
        p = p - lr * where(norm(p) * norm(u) > 0, norm(p) / norm(u), 1) * u

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: the length of a step as a share of the tensor's own
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: added to the direction before its length is taken
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: You et al. 2020 (arXiv:1904.00962), algorithm 2, with phi the identity.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.LAMB([w], lr=0.1, weight_decay=0)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8419, -1.8419])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (lamb.lamb,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return lamb.lamb

    def decoupled(self, group: Group) -> bool:
        return True


class LARS(Optimizer):
    r"""SGD with momentum whose gradients, for each tensor, are scaled to a share of the tensor: for very large batches.

        trust = trust_coefficient * norm(p) / (norm(g) + weight_decay * norm(p) + eps)
        b = momentum * b + where(norm(p) * norm(g) > 0, trust, 1) * (g + weight_decay * p)
        p = p - lr * b

    A tensor of zeros (often a bias at first) has no length to go by, and takes a step of SGD: leave biases and norms to
    an optimizer of their own, or give them `lr_factors`.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: what the share is multiplied by
        momentum: how much of b is kept from step to step
        weight_decay: L2 penalty
        trust_coefficient: the share: how long a gradient is beside its tensor
        eps: keeps the quotient finite where gradients vanish
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: You, Gitman & Ginsburg 2017 (arXiv:1708.03888), algorithm 1, but with the rate outside of the momentum, as
    in all implementations.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.LARS([w], trust_coefficient=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.8000])
    """

    positive: ClassVar = (*Optimizer.positive, "momentum", "trust_coefficient")
    rules: ClassVar = (lamb.lars,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return lamb.lars

    def decoupled(self, group: Group) -> bool:
        return True
