"""Adam and AdamW."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import adam
from surefoot.rules.rule import Rule


class Adam(Optimizer):
    r"""Adaptive rates from running averages of the gradient and its square.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        top = where(amsgrad, max(top, v), v)
        p = p - lr * (m / (1 - beta1 ^ t)) / (sqrt(top) / sqrt(1 - beta2 ^ t) + eps)

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: L2 penalty, added to the gradient (see AdamW for the decoupled one)
        amsgrad: never let the denominator shrink
        foreach, fused, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can
            always be captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)
        decoupled_weight_decay: decay as AdamW does

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; Reddi et al. 2018 (arXiv:1904.09237), algorithm 2;
    names and state_dict as torch.optim.Adam.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Adam([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (adam.adam, adam.amsgrad)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adam.amsgrad if group["amsgrad"] else adam.adam

    def decoupled(self, group: Group) -> bool:
        return group["decoupled_weight_decay"]


class AdamW(Adam):
    r"""Adam with decoupled weight decay: parameters shrink by lr * weight_decay, whatever their gradients.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        top = where(amsgrad, max(top, v), v)
        p = p - lr * ((m / (1 - beta1 ^ t)) / (sqrt(top) / sqrt(1 - beta2 ^ t) + eps) + weight_decay * p)

    Args: as for `Adam`; weight_decay is the decoupled one.

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2; names and state_dict as torch.optim.AdamW.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.AdamW([w], lr=0.1, weight_decay=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8900, -1.8800])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **engine: Unpack[Given],
    ) -> None:
        Optimizer.__init__(self, params, {**options(locals()), "decoupled_weight_decay": True}, engine)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # an Adam checkpoint must not turn AdamW into Adam
            group["decoupled_weight_decay"] = True
