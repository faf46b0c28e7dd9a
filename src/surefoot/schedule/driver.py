"""The small object that writes a schedule's values into an optimizer."""

from __future__ import annotations

from typing import Any

import torch

from surefoot.errors import UserError
from surefoot.schedule.shapes import Schedule
from surefoot.schedule.text import parse


class Driver:
    """Drives an optimizer's learning rates: group["lr"] = group["initial_lr"] * lr(time).

    The time is the number of `step` calls. It is the whole state, so resuming needs no more than `load_state_dict`, in
    any order with the optimizer's own. Nothing of the optimizer is patched. A group added later is driven from the next
    `step` on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, lr: Schedule) -> None:
        self.optimizer = optimizer
        self.lr = lr
        self.time = 0
        self._write()

    def step(self) -> None:
        """One unit of time has passed: after each epoch, or after each optimizer step, as the schedule is meant."""
        self.time += 1
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The time, which is all there is to keep."""
        return {"time": self.time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved time: write the rates of that time."""
        self.time = int(state["time"])
        self._write()

    def _write(self) -> None:
        groups = self.optimizer.param_groups
        for group in groups:
            if "initial_lr" not in group:  # the name that torch's schedulers use
                group["initial_lr"] = _base(group["lr"], groups)
        factor = self.lr(self.time)
        for group in groups:
            if isinstance(group["lr"], torch.Tensor):
                with torch.no_grad():
                    group["lr"].fill_(group["initial_lr"] * factor)
            else:
                group["lr"] = group["initial_lr"] * factor


def _base(lr: float | torch.Tensor, groups: list[dict[str, Any]]) -> float:
    """The base rate of a group that has none yet. Groups may share one tensor, which may have been written already."""
    known = (g["initial_lr"] for g in groups if g["lr"] is lr and "initial_lr" in g)
    return next(known, float(lr.detach())) if isinstance(lr, torch.Tensor) else float(lr)


def drive(optimizer: torch.optim.Optimizer, lr: Schedule | str, total: float | None = None) -> Driver:
    """Let a schedule set an optimizer's learning rates; it writes lr(0) at once.

    Args:
        optimizer: any torch optimizer
        lr: the schedule, or its text form; its bare numbers count calls of `step()`
        total: how many calls of `step()` the run will make; needed by a shape without a length

    Raises:
        UserError: for a text that is no schedule, or a shape without a length where total is not given

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    >>> sched = sf.schedule.drive(opt, lr=sf.schedule.linear(0.1, 1, 5) >> sf.schedule.cosine(), total=200)
    >>> for epoch in range(5):
    ...     opt.step(); sched.step()
    >>> opt.param_groups[0]["lr"]
    0.5
    """
    schedule = parse(lr) if isinstance(lr, str) else lr
    if not isinstance(schedule, Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"drive: lr must be a schedule, such as sf.schedule.cosine(200), not {schedule!r}")
    if not hasattr(optimizer, "param_groups"):
        raise UserError(f"drive: the first argument must be an optimizer, not {type(optimizer).__name__}")
    if total is not None:
        schedule = schedule.over(total)
    if schedule.incomplete:
        raise UserError(f"the schedule {schedule} lasts for the rest of the run: say how long that is with total=")
    return Driver(optimizer, schedule)
