"""The small object that writes the values of schedules into an optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.errors import UserError
from surefoot.schedule.plateau import Memory, as_number
from surefoot.schedule.schedule import Schedule
from surefoot.schedule.targets import Driven, Group, targets
from surefoot.schedule.times import Clock


class Driver:
    """Drives an optimizer's hyper-parameters: group["lr"] = group["initial_lr"] * lr(time), and others likewise.

    The time is the number of calls of `step` between which the optimizer really moved: a step that was skipped for a
    NaN, or by a loss scaler, does not count. (On a GPU that is known one step late, and made up for then.) The time
    starts at 0 and is the whole state, but for what a `plateau` was told, so resuming needs no more than
    `load_state_dict`, in any order with the optimizer's own. The optimizer is listened to by torch's own hooks, and
    nothing of it is patched. A group that is added later is driven from its first step on, if all groups are driven.

    As long as the optimizer has not been stepped and no parameter has a gradient, each call of `step` counts: so a
    schedule can be walked through.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, driven: list[Driven]) -> None:
        self.optimizer = optimizer
        self.time = 0
        self._driven = driven
        self._trained = False  # whether the optimizer was ever stepped
        self._moved = False  # whether it moved since the last call of `step`
        self._late: Any = None  # what will tell whether it did, where that is not known yet
        self._assumed: Any = None  # the same of the call before, which took it for a step
        self._groups = 0  # how many were driven when values were last written
        self._listen()
        self._write()

    def _listen(self) -> None:
        """Have the optimizer's steps told, for as long as somebody holds this driver."""
        optimizer = self.optimizer
        handles = (
            optimizer.register_step_pre_hook(_Hook(self, Driver.before)),
            optimizer.register_step_post_hook(_Hook(self, Driver.after)),
        )
        weakref.finalize(self, lambda: [handle.remove() for handle in handles])

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._listen()  # a copy listens to its own optimizer

    @property
    def schedules(self) -> dict[str, Any]:
        """What is driven, by name: a schedule, or a list of those of groups or parts that have their own."""
        found: dict[str, list[Schedule]] = {}
        for each in self._driven:
            found.setdefault(each.name, []).append(each.schedule)
        return {name: schedules[0] if len(schedules) == 1 else schedules for name, schedules in found.items()}

    @property
    def told(self) -> bool:
        """Whether there is a `plateau`, which must be told a metric."""
        return any(each.memories for each in self._driven)

    def __call__(self, t: float) -> float:
        """The factor on the learning rate at time t, of the first group where they differ."""
        return next(each.schedule(t) for each in self._driven if each.name == "lr")

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={schedule!r}" for name, schedule in self.schedules.items())
        return f"Driver({type(self.optimizer).__name__}, {told}, time={self.time})"

    def step(self, metric: float | Tensor | None = None) -> None:
        """One unit of time has passed: after each epoch, or after each optimizer step, as the schedules are meant.

        Args:
            metric: for schedules with a `plateau`, which is told it

        Raises:
            UserError: for a metric that is no number
        """
        told = None if metric is None else as_number(metric)
        if self._assumed is not None and self._assumed.skipped:
            self.time -= 1
        self._assumed = None if self._moved else self._late
        if self._moved or self._late is not None or self._walked():
            self.time += 1
        self._moved, self._late = False, None
        if told is not None:
            for each in self._driven:
                for memory, plateau in zip(each.memories, each.schedule.feedback, strict=True):
                    memory.tell(plateau, told)
                each.settle()
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The time, and what plateaus were told."""
        told = [memory.state_dict() for each in self._driven for memory in each.memories]
        return {"time": self.time, **({"plateaus": told} if told else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved time: write the values of that time.

        Raises:
            UserError: for what `state_dict` of such a driver did not return; nothing has changed then
        """
        time, told = state.get("time"), state.get("plateaus", [])
        memories = [memory for each in self._driven for memory in each.memories]
        if type(time) is not int or time < 0 or len(told) != len(memories):
            raise UserError(
                f"this is no state of such a driver: it has the time {time!r} and {len(told)} plateaus, "
                f"needed are a whole number and {len(memories)}"
            )
        loaded = iter([Memory.of(each) for each in told])
        for each in self._driven:
            each.memories = [next(loaded) for _ in each.memories]
            each.settle()
        self.time = time
        self._moved, self._late, self._assumed = False, None, None
        self._write()

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer is about to step: groups that are new get their values."""
        if self._groups != len(optimizer.param_groups):
            self._write()

    def after(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's `step` was called: find out, without waiting for a GPU, whether it moved."""
        self._trained = True
        if self._late is not None:
            self._moved = self._moved or not self._late.skipped
            self._late = None
        report: Any = getattr(optimizer, "last", None)  # an optimizer of ours tells
        if not hasattr(report, "late"):
            found = getattr(optimizer, "found_inf", None)  # of torch's some leave it to the step to skip itself
            if found is None:
                self._moved = True
                return
            report = _Scaled(found.clone(), found.is_cuda)
        if report.late:
            self._late = report
        elif not report.skipped:
            self._moved = True

    def _walked(self) -> bool:
        if self._trained:
            return False
        return all(p.grad is None for group in self.optimizer.param_groups for p in group["params"])

    def _write(self) -> None:
        groups = self.optimizer.param_groups
        self._groups = len(groups)
        for each in self._driven:
            factor, name, base_name, part = each.function(self.time), each.name, each.base, each.part
            for group in groups if each.groups is None else [groups[i] for i in each.groups]:
                if base_name not in group:
                    group[base_name] = _base(name, base_name, group[name], groups)
                value = group[name]
                if part is not None:
                    values = list(value)
                    values[part] = group[base_name][part] * factor
                    group[name] = tuple(values)
                elif isinstance(value, Tensor):
                    with torch.no_grad():
                        value.fill_(group[base_name] * factor)
                else:
                    group[name] = group[base_name] * factor


class _Hook:
    """Tells a driver of its optimizer's steps, as long as it lives. A copy of the optimizer has a hook of nobody."""

    def __init__(self, driver: Driver | None, tell: Callable[[Driver, torch.optim.Optimizer], None]) -> None:
        self._driver = None if driver is None else weakref.ref(driver)
        self._tell = tell

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        driver = self._driver and self._driver()
        if driver is not None and driver.optimizer is optimizer:
            self._tell(driver, optimizer)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (None, Driver.before)


class _Scaled:
    """What a loss scaler told one of torch's optimizers."""

    def __init__(self, found: Tensor, late: bool) -> None:
        self._found, self.late = found, late

    @property
    def skipped(self) -> bool:
        return bool(self._found)


def _base(name: str, base_name: str, value: Any, groups: list[Group]) -> Any:
    """The base of a group that has none yet. Groups may share one tensor, which may have been written already."""
    if isinstance(value, Tensor):
        known = (group[base_name] for group in groups if group[name] is value and base_name in group)
        return next(known, float(value.detach()))
    return tuple(map(float, cast("tuple[Any, ...]", value))) if isinstance(value, list | tuple) else float(value)


def drive(
    optimizer: torch.optim.Optimizer,
    lr: Schedule | str | list[Schedule | str] | Mapping[int, Schedule | str] | None = None,
    total: float | None = None,
    steps_per_epoch: float | None = None,
    *,
    samples_per_step: float | None = None,
    tokens_per_step: float | None = None,
    **others: Any,
) -> Driver:
    """Let schedules set an optimizer's hyper-parameters; their values at time 0 are written at once.

    A schedule gives a factor on what the optimizer has: on its rate, weight decay, momentum. One schedule drives all
    groups; a list has one for each group, a dict some by their numbers. Of hyper-parameters that are several numbers,
    such as betas, a tuple has one for each, or None; a schedule alone drives the first.

    Args:
        optimizer: any torch optimizer
        lr: the schedule, or its text form; its bare numbers count calls of `step()`
        total: how many calls of `step()` the run will make; needed by shapes without a length and for "5%"
        steps_per_epoch: how many calls of `step()` make an epoch, for lengths such as "5ep"
        samples_per_step, tokens_per_step: the same for lengths such as "4096sa" and "1e9tok"
        others: schedules of other hyper-parameters by their names: momentum=..., weight_decay=..., betas=(..., None)

    Raises:
        UserError: for a text that is no schedule, a length that is not known, an unknown hyper-parameter

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5, momentum=0.8)
    >>> sched = sf.schedule.drive(opt, lr="warmup(5) >> cosine", momentum="linear(1, 0.5)", total=200)
    >>> for epoch in range(5):
    ...     opt.step(); sched.step()
    >>> opt.param_groups[0]["lr"]
    0.5
    """
    if not hasattr(optimizer, "param_groups"):
        raise UserError(f"drive: the first argument must be an optimizer, not {type(optimizer).__name__}")
    for name, value in (("total", total), ("steps_per_epoch", steps_per_epoch)):
        if value is not None and not (isinstance(value, int | float) and value > 0):  # pyright: ignore
            raise UserError(f"drive: {name}={value!r} must be a number above 0")
    units = {"ep": steps_per_epoch, "sa": None, "tok": None}
    units |= {"sa": samples_per_step and 1 / samples_per_step, "tok": tokens_per_step and 1 / tokens_per_step}
    units["st"] = 1 if total is not None or steps_per_epoch is not None else None
    clock = Clock(total, {unit: length for unit, length in units.items() if length is not None})
    driven = [
        each
        for name, given in {"lr": lr, **others}.items()
        if given is not None
        for each in targets(optimizer, name, given, clock)
    ]
    if not driven:
        raise UserError("drive: there is nothing to drive: give it lr=schedule, or momentum=, weight_decay=, betas=")
    return Driver(optimizer, driven)
