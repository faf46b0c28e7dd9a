"""Schedules: pure functions of time. `shape(t)` is the factor on the base rate at time t.

Time is counted in whatever unit drives the schedule (see `drive`). A shape lasts for its `length`; asked about later
times it holds its last value. A shape without a length lasts for the rest of the run and learns how long that is from
`over(total)`. `a >> b` is a, then b with its own clock starting at 0.

The guide's three schedules (section 4), for 200 epochs:

>>> from surefoot.schedule import cosine, linear, step
>>> step(30, 0.1)(60)                          # a tenth of the rate every 30 epochs
0.010000000000000002
>>> cosine(200)(100)                           # half a cosine, from 1 to 0
0.5
>>> guide = linear(0.1, 1, 5) >> cosine(195)   # 5 epochs of warm-up, then cosine
>>> guide
linear(0.1, 1, 5) >> cosine(195)
>>> [guide(t) for t in (0, 5, 200)]
[0.1, 1.0, 0.0]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from surefoot.errors import UserError


class Schedule:
    """A function of time, and how it combines with others. Frozen, hashable; its `repr` is its text form."""

    parts: tuple[Shape, ...]  # the shapes it is made of, in their order
    length: float | None  # how long it lasts; None: for the rest of the run
    incomplete: bool  # whether its form depends on a length that it has not got

    def __call__(self, t: float) -> float:
        """The factor on the base rate at time t >= 0."""
        raise NotImplementedError

    def __rshift__(self, other: Schedule) -> Chain:
        """This schedule for its length, then `other`."""
        if not isinstance(other, Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        return Chain((*self.parts, *other.parts))

    def over(self, total: float) -> Schedule:
        """This schedule for a run of length `total`: what had no length lasts to the end."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Shape(Schedule):
    """One piece of a schedule.

    stretches: whether its form depends on its length
    """

    stretches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "length" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{self.name}: {f.name}={value!r} must be a finite number")
            if value < 0 or (value == 0 and f.name in ("length", "every")):
                raise UserError(
                    f"{self.name}: {f.name}={value!r} must be {'more than 0' if value == 0 else '0 or more'}"
                )

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def incomplete(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stretches and self.length is None

    def __call__(self, t: float) -> float:
        if not t >= 0:
            raise UserError(f"{self}: there is no time {t}, it begins at 0")
        return self._factor(t if self.length is None else min(t, self.length))

    def _factor(self, t: float) -> float:
        """The factor at a time within the shape's length."""
        raise NotImplementedError

    def formula(self, rest: str) -> str:
        """The factor as plain Python in t, math and, where the shape has no length, the expression `rest`."""
        raise NotImplementedError

    def text_length(self, rest: str) -> str:
        """The length as plain Python: a number, or `rest` where the shape has none."""
        return rest if self.length is None else _number(self.length)

    def over(self, total: float) -> Shape:
        return self if self.length is not None else replace(self, length=total)

    @property
    def parts(self) -> tuple[Shape, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self,)

    def span(self) -> float:
        """The length; a shape without one is refused here."""
        if self.length is None:
            raise UserError(f"{self} has no length: give it one, or drive it with total=")
        return self.length

    def __repr__(self) -> str:
        """The shortest text that reads back as this shape."""
        args: list[str] = []
        by_name = False
        for f in fields(self):
            value = getattr(self, f.name)
            if value == f.default:
                by_name = True
            else:
                args.append(f"{f.name}={_number(value)}" if by_name else _number(value))
        return f"{self.name}({', '.join(args)})" if args else self.name


@dataclass(frozen=True, repr=False)
class Constant(Shape):
    """The same factor all along: f(t) = factor.

    >>> constant(0.5, 10)(3)
    0.5
    """

    factor: float = 1
    length: float | None = None

    def _factor(self, t: float) -> float:
        return float(self.factor)

    def formula(self, rest: str) -> str:
        return repr(float(self.factor))


@dataclass(frozen=True, repr=False)
class Step(Shape):
    """Step decay: f(t) = gamma ^ floor(t / every), as torch's StepLR.

    >>> [step(30, 0.1)(t) for t in (0, 29, 30)]
    [1.0, 1.0, 0.1]
    """

    every: float
    gamma: float = 0.1
    length: float | None = None

    def _factor(self, t: float) -> float:
        try:
            return float(self.gamma) ** (t // self.every)
        except OverflowError:  # Python's way of saying infinity
            return math.inf

    def formula(self, rest: str) -> str:
        time = "t" if self.length is None else f"min(t, {_number(self.length)})"
        return f"{float(self.gamma)!r} ** ({time} // {_number(self.every)})"


@dataclass(frozen=True, repr=False)
class Linear(Shape):
    """A straight line: f(t) = start + (end - start) t / length, as torch's LinearLR; warm-up, or decay to zero.

    >>> [linear(0.1, 1, 5)(t) for t in (0, 5, 100)]
    [0.1, 1.0, 1.0]
    """

    stretches: ClassVar = True

    start: float
    end: float
    length: float | None = None

    def _factor(self, t: float) -> float:
        share = t / self.span()
        return self.start * (1 - share) + self.end * share

    def formula(self, rest: str) -> str:
        share = f"min(t / {self.text_length(rest)}, 1)"
        return f"{_number(self.start)} + {_number(self.end - self.start)} * {share}"


@dataclass(frozen=True, repr=False)
class Cosine(Shape):
    """Half a cosine from 1 down to `floor`: f(t) = floor + (1 - floor) (1 + cos(pi t / length)) / 2.

    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts" (arXiv:1608.03983), eq. 5, without
    the restarts. Past its length it holds the floor, where torch's CosineAnnealingLR rises again.

    >>> [cosine(10, floor=0.1)(t) for t in (0, 10, 20)]
    [1.0, 0.1, 0.1]
    """

    stretches: ClassVar = True

    length: float | None = None
    floor: float = 0

    def _factor(self, t: float) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * t / self.span())) / 2

    def formula(self, rest: str) -> str:
        wave = f"(1 + math.cos(math.pi * min(t / {self.text_length(rest)}, 1))) / 2"
        return wave if self.floor == 0 else f"{_number(self.floor)} + {_number(1 - self.floor)} * {wave}"


@dataclass(frozen=True, repr=False)
class Chain(Schedule):
    """Shapes one after the other, each with its own clock; all but the last need a length."""

    parts: tuple[Shape, ...]

    def __post_init__(self) -> None:
        for part in self.parts[:-1]:
            if part.length is None:
                raise UserError(f"{part} has no length, so nothing can follow it: give it one, or put it last")

    @property
    def length(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        last = self.parts[-1].length
        return None if last is None else self._before() + last

    @property
    def incomplete(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.parts[-1].incomplete

    def __call__(self, t: float) -> float:
        *before, last = self.parts
        for part in before:
            if t < part.span():
                return part(t)
            t -= part.span()
        return last(t)

    def over(self, total: float) -> Schedule:
        rest = total - self._before()
        if rest <= 0 and self.parts[-1].length is None:  # the run ends before the last part begins
            return Chain(self.parts[:-1])
        return Chain((*self.parts[:-1], self.parts[-1].over(rest)))

    def _before(self) -> float:
        return sum(part.span() for part in self.parts[:-1])

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.parts))


def _number(value: Any) -> str:
    """A number as a person writes it: 1 for 1.0, but exact."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e16 else repr(value)


constant, step, linear, cosine = Constant, Step, Linear, Cosine
SHAPES: dict[str, type[Shape]] = {shape.__name__.lower(): shape for shape in (Constant, Step, Linear, Cosine)}
