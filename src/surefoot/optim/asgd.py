"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import asgd
from surefoot.rules.rule import Rule


class ASGD(Optimizer):
    r"""Gradient descent with a falling rate, which keeps the average of the parameters (in the state `ax`).

        eta0 = lr
        mu0 = 1
        p = p * (1 - lambd * eta) - eta * g
        ax = ax + mu * (p - ax)
        eta = lr / (1 + lambd * lr * t) ^ alpha
        mu = 1 / max(1, t - t0)

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size at the start
        lambd: decay of the parameters, and how fast the rate falls
        alpha: the power with which it falls
        t0: the step after which averages are taken; before, ax is p
        weight_decay: L2 penalty, added to the gradient
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30); names and state_dict as torch.optim.ASGD.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.ASGD([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.8000, -1.6000])
    """

    positive: ClassVar = ("lr", "lambd", "alpha", "t0", "weight_decay")
    rules: ClassVar = (asgd.asgd,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return asgd.asgd
