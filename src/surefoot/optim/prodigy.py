"""Prodigy."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, are_numbers, options
from surefoot.rules import prodigy
from surefoot.rules.rule import Rule

SHARED = ("beta3", "d0", "d_coef", "growth_rate")  # what makes the estimate, which is one for all groups


class Prodigy(Optimizer):
    r"""AdamW that finds its rate itself, from how far the parameters have come: leave lr at 1.

        rate0 = d0
        top0 = d0
        start = where(t == 1, p, start)
        step = rate * lr * where(use_bias_correction, sqrt(1 - beta2^t) / (1 - beta1^t), 1)
        a = beta3 * a + total(rate / d0 * step * g * (start - p))
        s = beta3 * s + rate / d0 * where(safeguard_warmup, rate, step) * g
        m = beta1 * m + (1 - beta1) * rate * g
        v = beta2 * v + (1 - beta2) * rate^2 * g^2
        found = d_coef * a / total(abs(s))
        top = max(top, found)
        rate = min(top, where(rate == d0, max(rate, found), rate) * growth_rate)
        p = p - step * (m / (sqrt(v) + rate * eps) + where(decouple, weight_decay * p, 0))

    The rate found is the same for all groups, and is in each of them as `d`. It grows from d0 within some hundred steps
    and never falls: a schedule that lets lr fall to 0 is of use, warm-up of none. All parameters must be in one
    optimizer: with ZeroRedundancyOptimizer each process would find a rate of its own.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: what the rate found is multiplied by; groups may have their own, 0 for one that rests
        betas: (beta1, beta2), how much of m and v is kept from step to step
        beta3: how much of a and s is; the root of beta2 if not given
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled, as in AdamW
        decouple: if not, an L2 penalty, added to the gradient
        use_bias_correction: correct m and v as Adam does
        safeguard_warmup: leave lr out of s, for schedules that begin with warm-up
        d0: the rate to begin with; too small does no harm
        d_coef: what the estimate is multiplied by: the first to try where the rate found is too high or too low
        growth_rate: how much the rate may grow in a step, such as 1.02
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Mishchenko & Defazio 2023 (arXiv:2306.06101), algorithm 4; names and defaults as in the authors' prodigyopt.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Prodigy([w])
    >>> for _ in range(30):
    ...     opt.zero_grad(); (w ** 2).sum().backward(); opt.step()
    >>> 0.01 < opt.param_groups[0]["d"] < 1
    True
    """

    positive: ClassVar = (*Optimizer.positive, *SHARED)
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (prodigy.prodigy,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        chosen = {**options(locals()), "d": d0, "d_max": d0, "d_numerator": 0.0}
        if beta3 is None:
            chosen["beta3"] = float(betas[1]) ** 0.5 if are_numbers(betas, 2) else 0.0  # then betas are refused
        super().__init__(params, chosen, engine)

    def rule(self, group: Group) -> Rule:
        return prodigy.prodigy

    def decoupled(self, group: Group) -> bool:
        return group["decouple"]

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters. It takes over the rate that was found, which all groups share."""
        if isinstance(param_group, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  # else torch says what it wants
            first: dict[str, Any] = self.param_groups[0] if self.param_groups else self.defaults
            for name in SHARED:
                if name in param_group and param_group[name] != first[name]:
                    raise self._refusal(name, param_group[name], f"it is {first[name]!r}, the same for all groups")
            param_group.update({name: first[name] for name in self.rules[0].common})
        super().add_param_group(param_group)

    def _check(self, group: Group) -> None:
        super()._check(group)
        for name in ("d0", "d_coef"):
            if not group[name] > 0:
                raise self._refusal(name, group[name], "it must be above 0")
        if not group["beta3"] < 1:
            raise self._refusal("beta3", group["beta3"], "it must be below 1")
        if not group["growth_rate"] >= 1:
            raise self._refusal("growth_rate", group["growth_rate"], "it must be 1 or more")
