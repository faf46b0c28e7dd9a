"""torch's schedulers, live ones, as schedules of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim import lr_scheduler

from surefoot.errors import UserError
from surefoot.schedule.algebra import Chain
from surefoot.schedule.custom import OfUser
from surefoot.schedule.cycles import CosineRestarts, Cyclic, OneCycle
from surefoot.schedule.driver import Driver, drive
from surefoot.schedule.plateau import Memory, Plateau
from surefoot.schedule.schedule import Schedule
from surefoot.schedule.shapes import Constant, Cosine, Exponential, Linear, MultiStep, Polynomial, Step
from surefoot.schedule.torch_names import TORCH


def from_torch(scheduler: Any) -> Driver:
    """Drive an optimizer as one of torch's schedulers did, from where that is now; throw that one away.

    Args:
        scheduler: of torch.optim.lr_scheduler; `TORCH` says which expression replaces each

    Where they differ, it is ours that has no bug: CosineAnnealingLR holds its floor after T_max, OneCycleLR its last
    value. What is rounded at each step of theirs is not in ours.

    Raises:
        UserError: for what is none of them, a CyclicLR with a scale_fn, a momentum that is cycled inside another
            scheduler, and where the values that the optimizer has now are not those of the expression (schedulers
            inside each other that overwrite what the others wrote); the optimizer is then as it was

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    >>> sf.schedule.from_torch(torch.optim.lr_scheduler.StepLR(opt, 30))
    Driver(SGD, lr=step(30), time=0)
    """
    first = _check(scheduler)
    optimizer: torch.optim.Optimizer = first.optimizer
    groups = optimizer.param_groups
    before = [dict(group) for group in groups]
    held = [_values(group) for group in groups]
    try:
        for i, group in enumerate(groups):
            if isinstance(scheduler, lr_scheduler.CyclicLR):  # their lowest rate may be 0, the base of nothing
                group["initial_lr"] = scheduler.max_lrs[i]
            if isinstance(scheduler, lr_scheduler.OneCycleLR):
                group["initial_lr"] = group["max_lr"]
            group.setdefault("initial_lr", float(group["lr"]))
        factors = [held[i][0] / group["initial_lr"] if group["initial_lr"] else 1.0 for i, group in enumerate(groups)]
        driver = drive(optimizer, **_driven(scheduler, groups))
        memories = _memories(scheduler, factors, len(driver.state_dict().get("plateaus", [])))
        driver.load_state_dict({"time": first.last_epoch, **({"plateaus": memories} if memories else {})})
        past = isinstance(scheduler, lr_scheduler.CosineAnnealingLR) and scheduler.last_epoch > scheduler.T_max
        for i, group in enumerate(groups):
            pairs = zip(held[i], _values(group), strict=True)
            if not past and not all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-9) for a, b in pairs):
                raise UserError(
                    f"from_torch: group {i} has {held[i]}, but {type(scheduler).__name__} as an expression gives "
                    f"{_values(group)}: write the expression yourself"
                )
    except BaseException:
        for group, kept in zip(groups, before, strict=True):
            group.clear()
            group.update(kept)
        for group, values in zip(groups, held, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].detach().fill_(values[0])
        raise
    return driver


def _check(scheduler: Any) -> Any:
    """The first scheduler inside of it that keeps a time and its optimizer; refuses what is none of torch's."""
    name = type(scheduler).__name__
    if name not in TORCH or getattr(lr_scheduler, name) is not type(scheduler):
        raise UserError(f"from_torch: {name} is none of torch's schedulers ({', '.join(TORCH)})")
    inside = [_check(each) for each in getattr(scheduler, "_schedulers", ())]
    for each in getattr(scheduler, "_schedulers", ()):
        if getattr(each, "cycle_momentum", False):
            raise UserError(f"from_torch: {name} holds a scheduler that cycles the momentum: drive that by yourself")
    return scheduler if hasattr(scheduler, "last_epoch") and hasattr(scheduler, "optimizer") else inside[0]


def _values(group: dict[str, Any]) -> list[float]:
    """What a scheduler may have written."""
    momentum = [group["betas"][0]] if "betas" in group else [group["momentum"]] if "momentum" in group else []
    return [float(group["lr"]), *map(float, momentum)]


def _driven(scheduler: Any, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The schedules of all groups, as `drive` takes them."""
    driven: dict[str, Any] = {"lr": _one([_schedule(scheduler, i) for i in range(len(groups))])}
    if getattr(scheduler, "cycle_momentum", False):
        name = "betas" if "betas" in groups[0] else "momentum"
        for group in groups:
            highest = group["max_momentum"]
            group[f"initial_{name}"] = (highest, *group["betas"][1:]) if name == "betas" else highest
        driven[name] = _one([_momentum(scheduler, i) for i in range(len(groups))])
    return driven


def _one(schedules: list[Schedule]) -> Schedule | list[Schedule]:
    same = all(schedule == schedules[0] for schedule in schedules) and not schedules[0].feedback
    return schedules[0] if same else schedules


def _schedule(s: Any, i: int) -> Schedule:
    """The factor on the base rate of group i."""
    return MAKERS[type(s).__name__](s, i)


def _share(s: Any, i: int, rate: float) -> float:
    """A rate as a share of the group's base rate."""
    base = float(s.optimizer.param_groups[i]["initial_lr"])
    if not base and rate:
        raise UserError(f"from_torch: {type(s).__name__} raises the rate of group {i} from 0: give it a base rate")
    return float(rate) / base if base else 0.0


def _constant(s: Any, i: int) -> Schedule:
    return Constant(s.factor, s.total_iters) >> Constant() if s.total_iters > 0 else Constant(s.factor)


def _linear(s: Any, i: int) -> Schedule:
    return Linear(s.start_factor, s.end_factor, s.total_iters) if s.total_iters > 0 else Constant(s.start_factor)


def _multistep(s: Any, i: int) -> Schedule:
    return MultiStep(tuple(sorted(s.milestones.elements())), s.gamma)


def _sequential(s: Any, i: int) -> Schedule:
    lengths = [end - begin for begin, end in zip([0, *s._milestones], s._milestones, strict=False)]
    *before, last = (_schedule(each, i) for each in s._schedulers)
    cut = [part.cut(length) for part, length in zip(before, lengths, strict=True) if length > 0]
    return Chain((*cut, last)) if cut else last


def _chained(s: Any, i: int) -> Schedule:
    first, *others = (_schedule(each, i) for each in s._schedulers)
    for other in others:
        first = first * other
    return first


def _cyclic(s: Any, i: int) -> Schedule:
    if s._scale_fn_custom is not None:
        raise UserError("from_torch: a CyclicLR with a scale_fn is a function of your own: use schedule.function")
    return _cycle(s, _share(s, i, s.base_lrs[i]), _share(s, i, s.max_lrs[i]))


def _cycle(s: Any, low: float, high: float) -> Schedule:
    up = s.total_size * s.step_ratio
    return Cyclic(up, s.total_size - up, low, high, s.mode, s.gamma)


def _one_cycle(s: Any, i: int) -> Schedule:
    group = s.optimizer.param_groups[i]
    start, peak, end = (_share(s, i, rate) for rate in (s.base_lrs[i], group["max_lr"], group["min_lr"]))
    return _arc(s, start, peak, end)


def _arc(s: Any, start: float, peak: float, end: float) -> Schedule:
    length = s.total_steps - 1
    if length < 1:
        return Constant(end)  # torch begins with the last phase then
    rise = max(s._schedule_phases[0]["end_step"], 0) / length
    curve = "cosine" if s._anneal_func_type == "cos" else "linear"
    return OneCycle(length, start, peak, end, rise, curve, len(s._schedule_phases))


def _momentum(s: Any, i: int) -> Schedule:
    """The factor on the highest momentum, which goes the other way."""
    group = s.optimizer.param_groups[i]
    low = group["base_momentum"] / group["max_momentum"] if group["max_momentum"] else 0.0
    return _arc(s, 1.0, low, 1.0) if isinstance(s, lr_scheduler.OneCycleLR) else _cycle(s, 1.0, low)


def _plateau(s: Any, i: int) -> Schedule:
    least = _share(s, i, s.min_lrs[i])
    return Plateau(s.factor, s.patience, s.threshold, s.threshold_mode, s.cooldown, s.mode, least)


def _memories(s: Any, factors: list[float], number: int) -> list[dict[str, Any]]:
    """What the plateaus of the groups were told, if the scheduler is one; in others they begin anew."""
    if not isinstance(s, lr_scheduler.ReduceLROnPlateau):
        return [Memory().state_dict() for _ in range(number)]
    best = None if math.isinf(s.best) else float(s.best) * (1 if s.mode == "min" else -1)
    return [Memory(factor, best, s.num_bad_epochs, s.cooldown_counter).state_dict() for factor in factors]


class _Multiplied:
    """The product of a function's values at 1, 2, ... t."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        self._factor = factor
        self._products = [1.0]

    def __call__(self, t: float) -> float:
        while len(self._products) <= t:
            self._products.append(self._products[-1] * self._factor(len(self._products)))
        return self._products[int(t)]


MAKERS: dict[str, Callable[[Any, int], Schedule]] = {
    "LambdaLR": lambda s, i: OfUser(s.lr_lambdas[i]),
    "MultiplicativeLR": lambda s, i: OfUser(_Multiplied(s.lr_lambdas[i])),
    "StepLR": lambda s, i: Step(s.step_size, s.gamma),
    "MultiStepLR": _multistep,
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "ExponentialLR": lambda s, i: Exponential(s.gamma),
    "SequentialLR": _sequential,
    "PolynomialLR": lambda s, i: Polynomial(s.total_iters, s.power),
    "CosineAnnealingLR": lambda s, i: Cosine(s.T_max, _share(s, i, s.eta_min)),
    "ChainedScheduler": _chained,
    "ReduceLROnPlateau": _plateau,
    "CyclicLR": _cyclic,
    "OneCycleLR": _one_cycle,
    "CosineAnnealingWarmRestarts": lambda s, i: CosineRestarts(
        cast(float, s.T_0), s.T_mult, 1.0, _share(s, i, s.eta_min)
    ),
}
