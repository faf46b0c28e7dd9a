"""Lion and Signum."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, is_number, options
from surefoot.rules import lion
from surefoot.rules.rule import Rule


class Lion(Optimizer):
    r"""Steps by the sign of a momentum that leans on the gradient: one state, every element at the same pace.

        u = beta1 * m + (1 - beta1) * g
        m = beta2 * m + (1 - beta2) * g
        p = p - lr * (sign(u) + weight_decay * p)

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: what each element moves; a third to a tenth of AdamW's
        betas: the share of m in u, and how much of m is kept from step to step
        weight_decay: decoupled: parameters shrink by lr * weight_decay, whatever their gradients; 3 to 10
            times AdamW's
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Chen et al. 2023 (arXiv:2302.06675), algorithm 2.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Lion([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = ("lr", "weight_decay")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (lion.lion,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return lion.lion

    def decoupled(self, group: Group) -> bool:
        return True


class Signum(Optimizer):
    r"""Steps by the sign of the momentum.

        m = momentum * m + (1 - momentum) * g
        p = p - lr * (sign(m) + weight_decay * p)

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: what each element moves
        momentum: how much of m is kept from step to step; 0 is signSGD
        weight_decay: decoupled: parameters shrink by lr * weight_decay, whatever their gradients
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Bernstein et al. 2018 (arXiv:1802.04434), algorithm 2, whose weight decay is the decoupled one.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Signum([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = ("lr", "weight_decay")
    rules: ClassVar = (lion.signum,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return lion.signum

    def decoupled(self, group: Group) -> bool:
        return True

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not (is_number(group["momentum"]) and 0 <= group["momentum"] < 1):
            raise self._refusal("momentum", group["momentum"], "it must be a number from 0 to below 1")
