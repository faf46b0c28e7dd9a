"""RMSprop."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import rmsprop
from surefoot.rules.rule import Rule


class RMSprop(Optimizer):
    r"""Gradients divided by the root of a running average of their squares.

        v = alpha * v + (1 - alpha) * g * g
        m = where(centered, alpha * m + (1 - alpha) * g, 0)
        b = momentum * b + g / (sqrt(v - m * m) + eps)
        p = p - lr * b

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        alpha: how much of v and m is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: L2 penalty, added to the gradient
        momentum: share of the buffer kept from step to step; 0 keeps none
        centered: divide by the standard deviation instead of the root mean square
        capturable, foreach: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Tieleman & Hinton 2012, lecture 6.5; Graves 2013 (arXiv:1308.0850), eq. 38 to 41, for the centred form;
    names and state_dict as torch.optim.RMSprop. Where torch's centred form takes the root of a negative rounding
    error and yields NaN, this one takes its size.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.RMSprop([w], lr=0.01)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = ("lr", "alpha", "eps", "weight_decay", "momentum")
    rules: ClassVar = tuple(rmsprop.RULES.values())

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return rmsprop.RULES[group["centered"], group["momentum"] > 0]
