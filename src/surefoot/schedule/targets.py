"""What the arguments of `drive` drive: which hyper-parameter, of which groups, by which schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.errors import UserError, unknown
from surefoot.schedule.plateau import Memory
from surefoot.schedule.schedule import Function, Schedule
from surefoot.schedule.text import parse
from surefoot.schedule.times import Clock

Group = dict[str, Any]


@dataclass
class Driven:
    """What one schedule drives: a hyper-parameter (or one of several that it holds), in all groups or in some.

    base: the key of a group that holds what factors are of
    memories: what its parts that depend on a metric have been told
    function: the schedule's function, those parts taken as numbers
    """

    name: str
    part: int | None
    groups: tuple[int, ...] | None
    schedule: Schedule
    base: str = field(init=False)
    memories: list[Memory] = field(init=False)
    function: Function = field(init=False)

    def __post_init__(self) -> None:
        self.base = f"initial_{self.name}"  # of the rate, the name that torch's schedulers use
        self.memories = [Memory() for _ in self.schedule.feedback]
        self.settle()

    def settle(self) -> None:
        """Let the function follow what the parts that depend on a metric are now."""
        self.function = self.schedule.settled(iter([memory.factor for memory in self.memories])).function()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "function"}  # it has no pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.settle()


def targets(optimizer: torch.optim.Optimizer, name: str, given: Any, clock: Clock) -> list[Driven]:
    """What the argument for a hyper-parameter drives.

    Raises:
        UserError: for a hyper-parameter that a group has not, for groups that are not there, for what is no schedule
    """
    found: list[Driven] = []
    for places, one in _by_group(name, given, optimizer.param_groups):
        chosen = optimizer.param_groups if places is None else [optimizer.param_groups[i] for i in places]
        for group in chosen:
            if name not in _numbers(group):
                raise unknown(f"hyper-parameter of {type(optimizer).__name__}:", name, _numbers(group))
        value = chosen[0][name]
        several = isinstance(value, tuple)
        parts = list(cast("tuple[Any, ...]", one)) if isinstance(one, tuple) else [one]
        if isinstance(one, tuple) and len(parts) != (len(cast("tuple[Any, ...]", value)) if several else 1):
            raise UserError(f"drive: {name}={value!r} cannot take a tuple of {len(parts)} schedules")
        for part, schedule in enumerate(parts):
            if schedule is not None:
                whole = _schedule(name, schedule, clock)
                found.append(Driven(name, part if several else None, places, whole))
    return found


def _by_group(name: str, given: Any, groups: list[Group]) -> list[tuple[tuple[int, ...] | None, Any]]:
    """Groups (None: all) and what drives them."""
    if isinstance(given, list):
        each = cast("list[Any]", given)
        if len(each) != len(groups):
            raise UserError(f"drive: {name} has {len(each)} schedules for {len(groups)} groups: one each is needed")
        given = dict(enumerate(each))
    if not isinstance(given, Mapping):
        return [(None, given)]
    chosen = cast("Mapping[Any, Any]", given)
    for place in chosen:
        if type(place) is not int or not 0 <= place < len(groups):
            raise UserError(f"drive: {name}: there is no group {place!r}; they are 0 to {len(groups) - 1}")
    return [((place,), one) for place, one in chosen.items() if one is not None]


def _numbers(group: Group) -> list[str]:
    """The hyper-parameters that can be driven."""
    kinds = (int, float, tuple, Tensor)
    own = {name: value for name, value in group.items() if not name.startswith("initial_")}
    return [name for name, value in own.items() if not isinstance(value, bool) and isinstance(value, kinds)]


def _schedule(name: str, given: Any, clock: Clock) -> Schedule:
    """A schedule with all that the clock knows."""
    schedule = parse(given) if isinstance(given, str) else given
    if not isinstance(schedule, Schedule):
        hint = "wrap it: sf.schedule.function(...)" if callable(schedule) else "such as sf.schedule.cosine(200)"
        raise UserError(f"drive: {name} must be a schedule, not {schedule!r}: {hint}")
    schedule = schedule.resolved(clock)
    if clock.total is not None:
        schedule = schedule.over(clock.total)
    if schedule.incomplete:
        raise UserError(f"the schedule {schedule} lasts for the rest of the run: say how long that is with total=")
    return schedule
