"""Adamax."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import adamax
from surefoot.rules.rule import Rule


class Adamax(Optimizer):
    r"""Adam with the largest gradient of late in the place of the second moment.

        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, abs(g) + eps)
        p = p - lr * (m / (1 - beta1 ^ t)) / u

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and u is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: L2 penalty, added to the gradient
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 2; names and state_dict as torch.optim.Adamax.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Adamax([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (adamax.adamax,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adamax.adamax
