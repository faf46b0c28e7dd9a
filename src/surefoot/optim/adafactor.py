"""Adafactor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.matrix.factored import Factored
from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, are_numbers, is_number, options
from surefoot.rules.adafactor import adafactor
from surefoot.rules.rule import Rule

FACTORED = Factored()


class Adafactor(Optimizer):
    r"""Adam's second moment from the means of rows and columns, so that states take next to no memory.

        share = t ^ beta2_decay
        r = (1 - share) * r + share * row_mean(g * g)
        c = (1 - share) * c + share * column_mean(g * g)
        v = r * c / max(mean(r), eps1)
        u = g / sqrt(max(v, eps1 ^ 2))
        rate = max(eps2, rms(p)) * min(lr, 1 / sqrt(t))
        p = p - rate * u / max(1, rms(u) / d) - lr * weight_decay * p

    of matrices, and of the last two dimensions of what has more. Vectors keep the average of g * g itself.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: the largest step, in shares of the weights' root mean square
        beta2_decay: how fast the average of squares slows down
        eps: (eps1, eps2); eps1 None: the precision of the parameter's dtype; eps2: the least that rms(p) is taken for
        d: the largest root mean square that the normalised update keeps
        weight_decay: decoupled
        foreach: accepted for torch.optim's sake; it changes nothing here
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it; at a step, for parameters divided among processes

    Source: Shazeer & Stern 2018 (arXiv:1804.04235), algorithms 4 and 5; names, details and state_dict as
    torch.optim.Adafactor.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [2.0, -1.0]]))
    >>> opt = sf.optim.Adafactor([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([[ 0.9000, -1.8000],
            [ 1.8000, -0.9000]])
    """

    positive: ClassVar = ("lr", "weight_decay")
    rules: ClassVar = (adafactor,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adafactor

    def preconditioner(self, group: Group) -> Factored:
        return FACTORED

    def decoupled(self, group: Group) -> bool:
        return True

    def _check(self, group: Group) -> None:
        super()._check(group)
        eps: Any = group["eps"]
        known: Any = (1e-3, *eps[1:]) if str(eps)[1:].startswith("None") else eps
        if not (are_numbers(known, 2) and all(e >= 0 for e in known)):
            raise self._refusal("eps", group["eps"], "it must be two numbers, 0 or more; the first may be None")
        if not (is_number(group["beta2_decay"]) and group["beta2_decay"] <= 0):
            raise self._refusal("beta2_decay", group["beta2_decay"], "it must be a number, 0 or less")
        if not (is_number(group["d"]) and group["d"] >= 1):
            raise self._refusal("d", group["d"], "it must be a number, 1 or more")
