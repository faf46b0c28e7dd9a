"""Rprop."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, are_numbers, options
from surefoot.rules import rprop
from surefoot.rules.rule import Rule


class Rprop(Optimizer):
    r"""Steps by the gradient's sign, each element at a pace of its own. For whole batches only.

        s0 = lr
        s = where(g * b < 0, s * eta1, where(g * b > 0, s * eta2, s))
        s = min(max(s, step_size1), step_size2)
        b = where(g * b < 0, 0, g)
        p = p - sign(b) * s

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: the first step of each element; it plays no part later
        etas: what a step is multiplied by where the gradient's sign changes, and where it stays
        step_sizes: the shortest and the longest step
        foreach, capturable: accepted for torch.optim's sake; they change nothing here. A step on a GPU can always be
            captured in a CUDA graph, once a few have been taken
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Riedmiller & Braun 1993 (IEEE ICNN); names and state_dict as torch.optim.Rprop.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Rprop([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = ("lr",)
    rules: ClassVar = (rprop.rprop,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return rprop.rprop

    def _check(self, group: Group) -> None:
        super()._check(group)
        for name, words in (("etas", "0 < less < 1 < more"), ("step_sizes", "0 < shortest <= longest")):
            value = group[name]
            if not are_numbers(value, 2) or not _ordered(name, *value):
                raise self._refusal(name, value, f"it must be two numbers, {words}")


def _ordered(name: str, low: float, high: float) -> bool:
    return 0 < low < 1 < high if name == "etas" else 0 < low <= high
