"""How schedules combine: one after the other, products, repetitions and stretched ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from surefoot.errors import UserError
from surefoot.schedule.schedule import Function, Schedule, checked
from surefoot.schedule.shape import LARGEST
from surefoot.schedule.times import Duration, Time, plain


@dataclass(frozen=True, repr=False)
class Chain(Schedule):
    """Schedules one after the other, each with its own clock; all but the last need an end."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        for part in self.parts[:-1]:
            if not part.ends:
                raise UserError(f"{part} has no length, so nothing can follow it: give it one, or put it last")

    @property
    def ends(self) -> bool:
        return self.parts[-1].ends

    @property
    def end(self) -> float:
        return sum(part.end for part in self.parts)

    def function(self) -> Function:
        *before, last = (part.function() for part in self.parts)
        ends = list(accumulate(part.end for part in self.parts[:-1]))  # as `end` adds up, so that both agree exactly
        legs = list(zip([0.0, *ends], ends, before, strict=False))
        begin = ends[-1] if ends else 0.0

        def chain(t: float) -> float:
            for start, end, leg in legs:
                if t < end:
                    return leg(t - start)
            return last(t - begin)

        return chain

    def over(self, total: float) -> Schedule:
        *before, last = self.parts
        rest = total - sum(part.end for part in before)
        if rest <= 0 and not last.ends:  # the run ends before the last part begins
            return Chain(tuple(before))
        return Chain((*before, last.over(rest) if rest > 0 else last))

    def text(self, python: bool) -> str:
        return " >> ".join(part.text(python) for part in self.parts)


@dataclass(frozen=True, repr=False)
class Product(Schedule):
    """Two schedules multiplied; it ends when both have ended."""

    a: Schedule
    b: Schedule

    @property
    def ends(self) -> bool:
        return self.a.ends and self.b.ends

    @property
    def end(self) -> float:
        return max(self.a.end, self.b.end)

    def function(self) -> Function:
        a, b = self.a.function(), self.b.function()
        return lambda t: min(a(t) * b(t), LARGEST)

    def over(self, total: float) -> Schedule:
        return Product(self.a.over(total), self.b.over(total))

    def text(self, python: bool) -> str:
        right = _bracketed(self.b, python) if isinstance(self.b, Product) else _factor(self.b, python)
        return f"{_factor(self.a, python)} * {right}"


@dataclass(frozen=True, repr=False)
class _Around(Schedule):
    """What one schedule is made into."""

    inner: Schedule

    @property
    def ends(self) -> bool:
        return self.inner.ends

    @property
    def end(self) -> float:
        return self.inner.end

    def over(self, total: float) -> Schedule:
        return type(self)(self.inner.over(total), *self._arguments())

    def text(self, python: bool) -> str:
        name = type(self).__name__.lower()
        arguments = (repr(x) if python and isinstance(x, Duration) else _written(x) for x in self._arguments())
        return f"{_bracketed(self.inner, python)}.{name}({', '.join(arguments)})"

    def _arguments(self) -> tuple[float | Time | None, ...]:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Scaled(_Around):
    """A schedule times a number."""

    factor: float

    def __post_init__(self) -> None:
        checked("scaled", "factor", self.factor)

    def function(self) -> Function:
        inner, factor = self.inner.function(), self.factor
        return lambda t: min(factor * inner(t), LARGEST)

    def _arguments(self) -> tuple[float]:
        return (self.factor,)


@dataclass(frozen=True, repr=False)
class Floor(_Around):
    """A schedule, but never less than a number."""

    least: float

    def __post_init__(self) -> None:
        checked("floor", "least", self.least)

    def function(self) -> Function:
        inner, least = self.inner.function(), self.least
        return lambda t: max(inner(t), least)

    def _arguments(self) -> tuple[float]:
        return (self.least,)


@dataclass(frozen=True, repr=False)
class Repeat(_Around):
    """A schedule again and again."""

    times: int | None

    def __post_init__(self) -> None:
        if self.times is not None and (type(self.times) is not int or self.times < 1):
            raise UserError(f"repeat: times={self.times!r} must be a whole number, 1 or more")
        if not self.inner.ends and self.times is None:
            raise UserError(f"{self.inner} has no length, so it cannot be repeated: give it one")

    @property
    def ends(self) -> bool:
        return self.times is not None and self.inner.ends

    @property
    def end(self) -> float:
        if self.times is None:
            raise UserError(f"{self} has no end")
        return self.times * self.inner.end

    def function(self) -> Function:
        inner, period = self.inner.function(), self.inner.end
        if self.times is None:
            return lambda t: inner(t % period)
        end = self.times * period
        return lambda t: inner(t % period) if t < end else inner(period)

    def over(self, total: float) -> Schedule:
        return self if self.times is None else Repeat(self.inner.over(total / self.times), self.times)

    def _arguments(self) -> tuple[int, ...]:
        return () if self.times is None else (self.times,)


@dataclass(frozen=True, repr=False)
class Stretch(_Around):
    """A schedule, made as long as a number says."""

    total: Time

    def __post_init__(self) -> None:
        if not isinstance(self.total, Duration):
            checked("stretch", "total", self.total, above=True)

    @property
    def ends(self) -> bool:
        return True

    @property
    def end(self) -> float:
        if isinstance(self.total, Duration):
            raise UserError(f"{self}: its length is not known before it is driven")
        return self.total

    @property
    def incomplete(self) -> bool:
        return self.unmeasured

    def function(self) -> Function:
        total = self.end
        inner = self.inner if self.inner.ends else self.inner.over(total)
        function = inner.function()
        if not inner.ends:  # it repeats itself without an end
            return function
        end = inner.end
        return lambda t: function(t / total * end if t < total else end)

    def over(self, total: float) -> Schedule:
        return self

    def _arguments(self) -> tuple[Time]:
        return (self.total,)


@dataclass(frozen=True, repr=False)
class Cut(_Around):
    """The first part of a schedule."""

    length: Time

    def __post_init__(self) -> None:
        if not isinstance(self.length, Duration):
            checked("cut", "length", self.length, above=True)

    @property
    def ends(self) -> bool:
        return True

    @property
    def end(self) -> float:
        if isinstance(self.length, Duration):
            raise UserError(f"{self}: its length is not known before it is driven")
        return self.length

    def function(self) -> Function:
        inner, end = self.inner.function(), self.end
        return lambda t: inner(t if t < end else end)

    def _arguments(self) -> tuple[Time]:
        return (self.length,)


def _written(value: float | Time | None) -> str:
    return plain(value) if isinstance(value, int | float) else str(value)


def _factor(part: Schedule, python: bool) -> str:
    return _bracketed(part, python) if isinstance(part, Chain) else part.text(python)


def _bracketed(part: Schedule, python: bool) -> str:
    return f"({part.text(python)})" if isinstance(part, Chain | Product) else part.text(python)
