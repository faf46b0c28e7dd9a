"""Pieces that users make: of points, and of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from surefoot.errors import UserError
from surefoot.schedule.schedule import Function
from surefoot.schedule.shape import Shape, shape, time
from surefoot.schedule.times import Time


@shape("piecewise")
@dataclass(frozen=True, repr=False)
class Piecewise(Shape):
    """Straight lines between points (time, factor), the first at time 0; after the last it holds that.

    >>> import surefoot as sf
    >>> shape = sf.schedule.piecewise((0, 0), (5, 1), (30, 0))
    >>> [shape(t) for t in (0, 2.5, 5, 30, 31)]
    [0.0, 0.5, 1.0, 0.0, 0.0]
    """

    variable: ClassVar = True

    points: tuple[tuple[Time, float], ...] = time()

    def _check(self) -> None:
        times = [at for at, _ in self.points]
        plain = [at for at in times if isinstance(at, int | float)]
        rising = all(a < b for a, b in pairwise(plain))
        if len(times) < 2 or times[0] != 0 or not rising:
            raise UserError(f"piecewise: the times {', '.join(map(str, times))} must rise from 0, two or more of them")

    @property
    def length(self) -> Time:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.points[-1][0]

    @staticmethod
    def value(t: float, points: tuple[tuple[float, float], ...]) -> float:
        for (begin, start), (end, to) in zip(points, points[1:]):  # noqa: B905, RUF007 - no more than `math` is to be needed
            if t < end:
                share = (t - begin) / (end - begin)
                return start * (1 - share) + to * share
        return float(points[-1][1])


@shape("function")
@dataclass(frozen=True, repr=False)
class OfUser(Shape):
    """Any function of the time. It has no text form; a function that is imported by name can be pickled and compared.

    >>> import surefoot as sf
    >>> sf.schedule.function(lambda t: 0.95**t)(2)
    0.9025
    """

    callable: Callable[[float], float] = field()
    length: Time | None = time(None)

    def _check(self) -> None:
        if not callable(self.callable):  # pyright: ignore[reportUnnecessaryComparison]
            raise UserError(f"function: {self.callable!r} is no function of the time")

    def function(self) -> Function:
        call, length = self.callable, None if self.length is None else self.end
        return lambda t: float(call(t if length is None else min(t, length)))

    @staticmethod
    def value(t: float, *arguments: Any) -> float:
        raise UserError("a function of your own has no plain formula")
