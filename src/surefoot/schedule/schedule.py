"""What a schedule is: a pure function of time, and an algebra of such functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surefoot.errors import UserError
from surefoot.schedule.times import Clock, Duration, duration, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from surefoot.schedule.plateau import Plateau

Function = Callable[[float], float]


@dataclass(frozen=True, repr=False)
class Schedule:
    """A function of time, and how it combines with others. Frozen, hashable, comparable.

    `schedule(t)` is the factor on the base rate at time t. Time is counted in whatever unit drives the schedule (see
    `drive`) from 0. After its end a schedule holds its last value; one without an end lasts for the rest of the run.

        a >> b              a, then b with its own clock from 0
        a * b, 0.5 * a      the product
        a.scaled(x)         x a
        a.floor(x)          a, but never less than x
        a.repeat(n)         a, n times over; without n, for ever
        a.stretch(total)    a, made as long as total
        a.cut(length)       the first part of a; its last value after that

    `repr` is Python that makes it again, `str` is its text form, as recipes have it: without quotes and empty brackets.

    >>> from surefoot.schedule import cosine, warmup
    >>> guide = warmup(5) >> cosine(195)
    >>> [guide(t) for t in (0, 5, 200, 1000)]
    [0.0, 1.0, 0.0, 0.0]
    >>> guide.stretch(400)(10)
    1.0
    """

    @property
    def ends(self) -> bool:
        """Whether it has an end."""
        raise NotImplementedError

    @property
    def end(self) -> float:
        """Its length as a plain number.

        Raises:
            UserError: where it has none, or one in units that are not known yet
        """
        raise NotImplementedError

    @property
    def incomplete(self) -> bool:
        """Whether its form depends on a length, its own or that of a unit, that it has not got."""
        return self.unmeasured or any(isinstance(part, Schedule) and part.incomplete for part in self._inside())

    @property
    def unmeasured(self) -> bool:
        """Whether it has lengths in units that are not known yet."""
        inside = self._inside()
        return any(isinstance(x, Duration) or (isinstance(x, Schedule) and x.unmeasured) for x in inside)

    def function(self) -> Function:
        """The same as a plain function, for speed: it checks nothing."""
        raise NotImplementedError

    def over(self, total: float) -> Schedule:
        """This schedule for a run of length `total`: what had no length lasts to the end."""
        raise NotImplementedError

    def text(self, python: bool) -> str:
        """The text form, or Python."""
        raise NotImplementedError

    def __call__(self, t: float) -> float:
        """The factor on the base rate at time t.

        Raises:
            UserError: for a negative time, and where lengths are missing
        """
        if not 0 <= t < math.inf:
            raise UserError(f"{self}: there is no time {t}, it begins at 0")
        return self._function(t)

    def __rshift__(self, other: Schedule) -> Schedule:
        from surefoot.schedule.algebra import Chain

        if not isinstance(other, Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        return Chain((*links(self), *links(other)))

    def __mul__(self, other: Schedule | float) -> Schedule:
        from surefoot.schedule.algebra import Product

        if isinstance(other, int | float):
            return self.scaled(other)
        return Product(self, other) if isinstance(other, Schedule) else NotImplemented  # pyright: ignore

    def __rmul__(self, factor: float) -> Schedule:
        return self.scaled(factor) if isinstance(factor, int | float) else NotImplemented  # pyright: ignore

    def scaled(self, factor: float) -> Schedule:
        """The schedule times a number."""
        from surefoot.schedule.algebra import Scaled

        return Scaled(self, factor)

    def floor(self, least: float) -> Schedule:
        """The schedule, where it is above a number, and else that number."""
        from surefoot.schedule.algebra import Floor

        return Floor(self, least)

    def repeat(self, times: int | None = None) -> Schedule:
        """The schedule again and again, so many times; None: without an end."""
        from surefoot.schedule.algebra import Repeat

        return Repeat(self, times)

    def stretch(self, total: float | str | Duration) -> Schedule:
        """The schedule, drawn out or pressed together to a length. What has no length gets it."""
        from surefoot.schedule.algebra import Stretch

        return Stretch(self, duration(total) if isinstance(total, str) else total)

    def cut(self, length: float | str | Duration) -> Schedule:
        """The schedule up to some time, from which on it holds its value."""
        from surefoot.schedule.algebra import Cut

        return Cut(self, duration(length) if isinstance(length, str) else length)

    def resolved(self, clock: Clock) -> Schedule:
        """This schedule with all lengths as plain numbers."""
        return self._changed(lambda part: clock.of(part) if isinstance(part, Duration) else part.resolved(clock))

    @property
    def feedback(self) -> tuple[Plateau, ...]:
        """Those of its parts that depend on a metric, in their order."""
        inside = (part for part in self._inside() if isinstance(part, Schedule))
        return tuple(found for part in inside for found in part.feedback)

    def settled(self, factors: Iterator[float]) -> Schedule:
        """This schedule with numbers in the place of the parts that depend on a metric."""
        return self._changed(lambda part: part if isinstance(part, Duration) else part.settled(factors))

    def plot(self, *others: Schedule, total: float | None = None, ax: Axes | None = None) -> Axes:
        """Draw it, and others beside it, with matplotlib.

        Args:
            others: to be drawn in the same picture
            total: how far; by default to the end of the longest
            ax: where to draw; by default a new figure

        Returns the axes. Needs matplotlib: `pip install "surefoot[plot]"`.
        """
        from surefoot.schedule.plot import draw

        return draw([self, *others], total, ax)

    def __str__(self) -> str:
        return self.text(python=False)

    def __repr__(self) -> str:
        return self.text(python=True)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # without the function, which has no pickle

    @cached_property
    def _function(self) -> Function:
        if self.unmeasured:
            raise UserError(f"the schedule {self} has lengths with units: they are known once it drives an optimizer")
        if self.incomplete:
            raise UserError(f"the schedule {self} lasts for the rest of the run: say how long that is with total=")
        return self.function()

    def _inside(self) -> Iterator[Any]:
        """What its fields hold, tuples taken apart."""
        return _flat(getattr(self, f.name) for f in fields(self))

    def _changed(self, change: Callable[[Any], Any]) -> Schedule:
        """This schedule with its parts and its lengths with units changed."""
        return replace(self, **{f.name: _each(getattr(self, f.name), change) for f in fields(self)})


def links(schedule: Schedule) -> tuple[Schedule, ...]:
    """What a chain is made of: a schedule itself, or its parts if it is one."""
    from surefoot.schedule.algebra import Chain

    return schedule.parts if isinstance(schedule, Chain) else (schedule,)


def checked(owner: str, name: str, value: Any, least: float = 0.0, above: bool = False) -> float:
    """A number of a schedule, if it can be one.

    Raises:
        UserError: for what is no finite number, `least` or more (or above it)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{owner}: {name}={value!r} must be a finite number")
    if value < least or (above and value == least):
        wanted = f"more than {plain(least)}" if above else f"{plain(least)} or more"
        raise UserError(f"{owner}: {name}={plain(value)} must be {wanted}")
    return value


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_each(one, change) for one in value)  # pyright: ignore[reportUnknownVariableType]
    return change(value) if isinstance(value, Duration | Schedule) else value
