"""Schedule-Free SGD and AdamW."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.engine.states import MASTER
from surefoot.errors import UserError
from surefoot.optim.averaging import copy
from surefoot.optim.guard import Guard
from surefoot.optim.optimizer import Group, Optimizer, is_number, options
from surefoot.rules import schedule_free
from surefoot.rules.rule import Rule

TRAINED = "y"  # the key, in a saved state, of what the parameter is while it is trained


class ScheduleFree(Optimizer):
    """What both have in common: the parameters are y, where gradients are taken; what is to be used is the average x.

    So evaluate, and save, inside `with opt.averaged():`. What is saved there, of the model and of the optimizer, is
    both: the model's weights are x, and the optimizer's state holds y. To go on training, load both and call `train()`.

    `guard(model)` makes it an error to evaluate or to save anywhere else; `create(name, model)` calls it.
    """

    beside: ClassVar = (TRAINED,)
    _held: dict[Tensor, Tensor]  # what parameters are while they are trained, where they hold averages now

    def __init__(self, params: ParamsT, defaults: dict[str, Any], engine: Given) -> None:
        for name in ("ema", "cautious"):
            if engine.get(name):
                why = "it keeps an average of its own" if name == "ema" else "x, y and z must stay on one line"
                raise UserError(f"{type(self).__name__}: {name}={engine.get(name)!r}: leave it out: {why}")
        self._held = {}
        super().__init__(params, defaults, engine)

    def decoupled(self, group: Group) -> bool:
        return True

    @property
    def holds_averages(self) -> bool:
        return bool(self._held)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the averages in the place of the parameters, to evaluate or to save; `train()` ends it.

        `with opt.averaged():` does both.
        """
        if self._held:
            return
        for group in self.param_groups:
            beta = group["momentum"] if "momentum" in group else group["betas"][0]
            for p in group["params"]:
                kept = self.state.get(p, {})
                if "z" in kept:
                    self._held[p] = p.detach().clone()
                    y, z = _wide(p, kept), kept["z"].to(torch.promote_types(p.dtype, torch.float32))
                    p.copy_(y + (1 - 1 / beta) * (z - y))

    def train(self) -> None:
        """Put the parameters back as they are trained, bit for bit."""
        copy(self._held.values(), self._held)
        self._held.clear()

    def averaged(self) -> Any:
        """Put the averages in the place of the parameters, and the parameters back at the end: to evaluate and to save.

        >>> import torch, surefoot as sf
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> opt = sf.optim.ScheduleFreeSGD([w], lr=1.0, momentum=0.5)
        >>> for _ in range(2):
        ...     w.grad = torch.tensor([-4.0]); opt.step()
        >>> with opt.averaged(): print(w.item())  # of 4 and 8
        6.0
        >>> w.item()
        7.0
        """
        return self.evaluating()

    def guard(self, model: nn.Module) -> Guard:
        """Make it a UserError to evaluate or to save the model while it does not hold the averages.

        Watched are forward passes of `model` itself in eval mode without gradients, its `state_dict()`, and pickling
        it. Copies of the model are not watched. A forward pass that torch.compile has compiled is not, either.

        Returns:
            a handle; its `remove()` ends it
        """
        return Guard(self, model)

    def state_dict(self, format: Literal["surefoot", "torch"] = "surefoot") -> dict[str, Any]:
        saved = super().state_dict(format)
        for number, p in enumerate(p for group in self.param_groups for p in group["params"]):
            if p in self._held:
                saved["state"][number][TRAINED] = self._held[p].clone()
        return saved

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held": self._held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_held": {}, **state})
        self._held |= {p: kept.pop(TRAINED) for p, kept in self.state.items() if TRAINED in kept}

    def _update(self, group: Group) -> Any:
        if self._held:
            raise UserError(
                "the parameters hold their averages: before training goes on, leave `with optimizer.averaged()`, or "
                "call optimizer.train()"
            )
        return super()._update(group)

    def _check(self, group: Group) -> None:
        super()._check(group)
        for name, value in (("weight_lr_power", group["weight_lr_power"]), ("r", group["r"])):
            if not is_number(value):
                raise self._refusal(name, value, "it must be a number")


def _wide(p: Tensor, kept: dict[str, Any]) -> Tensor:
    """A parameter in single precision or better: its master copy, unless somebody else has written it."""
    wide = p.detach().to(torch.promote_types(p.dtype, torch.float32))
    master = kept.get(MASTER)
    return wide if master is None else torch.where(master.to(p.dtype) == p, master, wide)


class ScheduleFreeSGD(ScheduleFree):
    r"""SGD with momentum that needs no schedule: an average of its steps takes the place of one.

        z0 = p
        rate = lr * min(t / max(warmup_steps, 1), 1)
        top = max(top, rate)
        weight = t^r * top^weight_lr_power
        all = all + weight
        c = weight / all
        u = g + weight_decay * p
        p = p + c * (z - p) - (1 - momentum * (1 - c)) * rate * u
        z = z - rate * u

    The average x = p + (1 - 1 / momentum) * (z - p) is what to evaluate and to save: see `averaged`.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size; with momentum 0.9, 10 times that of SGD or more
        momentum: the share of x, beside z, in the point p where gradients are taken; above 0
        weight_decay: L2 penalty at p
        warmup_steps: steps over which the rate grows
        r: the average weighs step t by t^r
        weight_lr_power: and by the highest rate so far to this power
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`); ema and cautious are refused

    Raises:
        UserError: for a hyper-parameter out of range, naming it; for a step from the averages

    Source: Defazio et al. 2024 (arXiv:2405.15682), equations 3 to 5; names and defaults as in the
    authors' schedulefree.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.ScheduleFreeSGD([w], lr=0.25)
    >>> for _ in range(20):
    ...     opt.zero_grad(); (w ** 2).sum().backward(); opt.step()
    >>> with opt.averaged():
    ...     print(w.abs().max().item() < 0.25)
    True
    """

    positive: ClassVar = ("lr", "weight_decay", "momentum", "warmup_steps")
    rules: ClassVar = (schedule_free.schedule_free_sgd,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return schedule_free.schedule_free_sgd

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not 0 < group["momentum"] < 1:
            raise self._refusal("momentum", group["momentum"], "it must be above 0 and below 1")


class ScheduleFreeAdamW(ScheduleFree):
    r"""AdamW that needs no schedule: an average of its steps takes the place of one.

        z0 = p
        rate = lr * min(t / max(warmup_steps, 1), 1)
        top = max(top, rate)
        weight = t^r * top^weight_lr_power
        all = all + weight
        c = weight / all
        v = beta2 * v + (1 - beta2) * g^2
        u = g / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay * p
        p = p + c * (z - p) - (1 - beta1 * (1 - c)) * rate * u
        z = z - rate * u

    The average x = p + (1 - 1 / beta1) * (z - p) is what to evaluate and to save: see `averaged`.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: 1 to 10 times that of AdamW
        betas: (beta1, beta2), the share of x, beside z, in the point p where gradients are taken, above 0; and how much
            of v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled, at p
        warmup_steps: steps over which the rate grows
        r: the average weighs step t by t^r
        weight_lr_power: and by the highest rate so far to this power
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`); ema and cautious are refused

    Raises:
        UserError: for a hyper-parameter out of range, naming it; for a step from the averages

    Source: Defazio et al. 2024 (arXiv:2405.15682), algorithm 1, with bias correction before eps; names and defaults as
    in the authors' schedulefree.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.ScheduleFreeAdamW([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = ("lr", "eps", "weight_decay", "warmup_steps")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (schedule_free.schedule_free_adamw,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0025,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return schedule_free.schedule_free_adamw

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not group["betas"][0] > 0:
            raise self._refusal("betas", group["betas"], "the first must be above 0")
