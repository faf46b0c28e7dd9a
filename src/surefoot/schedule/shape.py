"""What the pieces of schedules have in common: their fields, checks, text, and the names they go by."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar, cast

from surefoot.errors import UserError, unknown
from surefoot.schedule.schedule import Function, Schedule, checked
from surefoot.schedule.times import Duration, Time, duration, plain

Class = TypeVar("Class", bound="Shape")
Constructor = Callable[..., "Shape"]
LARGEST = sys.float_info.max
SHAPES: dict[str, Constructor] = {}  # what text, and `surefoot.schedule`, knows


def number(default: Any = MISSING, argument: str = "", least: float = 0.0) -> Any:
    """A field that holds a number; `argument` is what the constructor calls it, if not as the field."""
    return field(default=default, metadata={"kind": "number", "argument": argument, "least": least})


def time(default: Any = MISSING, zero: bool = False) -> Any:
    """A field that holds a length of time, or several."""
    return field(default=default, metadata={"kind": "time", "zero": zero})


def raised(base: float, exponent: float) -> float:
    """base ^ exponent; the largest number where there is no room for that."""
    try:
        return float(base) ** exponent
    except OverflowError:
        return LARGEST


def choice(*known: str) -> Any:
    """A field that holds one of some words, the first by default."""
    return field(default=known[0], metadata={"kind": "choice", "known": known})


@dataclass(frozen=True, repr=False)
class Shape(Schedule):
    """One piece of a schedule.

    name: what it is called in text
    stretches: whether its form depends on its length
    variable: whether its constructor takes any number of what its only field holds
    """

    name: ClassVar[str]
    stretches: ClassVar[bool] = False
    variable: ClassVar[bool] = False
    value: ClassVar[Callable[..., float]]  # the formula, in t and the fields that it names; t is at most the length

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.metadata:
                object.__setattr__(self, f.name, self._checked(f, getattr(self, f.name)))
        self._check()

    def _check(self) -> None:
        """Refuse fields that do not go together."""

    def _checked(self, f: Any, value: Any) -> Any:
        kind, name = f.metadata["kind"], f.metadata.get("argument") or f.name
        if value is None and f.default is None:
            return None
        if kind == "choice":
            if value not in f.metadata["known"]:
                raise unknown(f"{name} of {self.name}", value, f.metadata["known"])
            return value
        if kind == "number":
            return checked(self.name, name, value, f.metadata["least"])
        several = "tuple" in f.type
        if several != isinstance(value, list | tuple):
            raise UserError(f"{self.name}: {name}={value!r} must be {'a list of times' if several else 'one time'}")
        if not several:
            return self._time(name, value, f.metadata["zero"])
        each = cast("list[Any]", value)
        return tuple(self._point(name, one) if self.variable else self._time(name, one, zero=True) for one in each)

    def _time(self, name: str, value: Any, zero: bool) -> Time:
        if isinstance(value, str):
            value = duration(value)
        if isinstance(value, Duration):
            return value
        return checked(self.name, name, value, above=not zero)

    def _point(self, name: str, value: Any) -> tuple[Time, float]:
        if not isinstance(value, list | tuple) or len(cast("list[Any]", value)) != 2:
            raise UserError(f"{self.name}: {value!r} must be a point (time, factor)")
        at, factor = cast("list[Any]", value)
        return self._time("time", at, zero=True), checked(self.name, "factor", factor)

    @property
    def lasts(self) -> Time | None:
        """Its length as it was given."""
        return getattr(self, "length")  # noqa: B009 - a field of most, declared by each in its place

    @property
    def ends(self) -> bool:
        return self.lasts is not None

    @property
    def end(self) -> float:
        length = self.lasts
        if not isinstance(length, int | float):
            raise UserError(f"{self}: its length is not known: give it one, or drive it with total=")
        return length

    @property
    def incomplete(self) -> bool:
        return self.unmeasured or (self.stretches and not self.ends)

    def function(self) -> Function:
        value, arguments = type(self).value, tuple(getattr(self, name) for name in self.told())
        if not self.ends:
            return lambda t: value(t, *arguments)
        end = self.end
        return lambda t: value(t if t < end else end, *arguments)

    @classmethod
    def told(cls) -> tuple[str, ...]:
        """The fields that the formula takes."""
        return tuple(inspect.signature(cls.value).parameters)[1:]

    def over(self, total: float) -> Shape:
        return self if self.ends else replace(self, **{"length": total})

    def text(self, python: bool) -> str:
        """The shortest text that reads back as this shape."""
        written: list[str] = []
        by_name = False
        for f in fields(self):
            value = getattr(self, f.name)
            if value == f.default:
                by_name = True
            elif self.variable:
                written += [_written(one, python) for one in value]
            else:
                name = f"{f.metadata.get('argument') or f.name}=" if by_name else ""
                written.append(name + _written(value, python))
        return f"{self.name}({', '.join(written)})" if written or python else self.name


def shape(name: str) -> Callable[[type[Class]], type[Class]]:
    """Let a class of shapes go by a name: its constructor takes the fields by what they are called as arguments."""

    def decorate(cls: type[Class]) -> type[Class]:
        cls.name = name
        own = {f.metadata.get("argument") or f.name: f for f in fields(cls)}
        how = inspect.Parameter.VAR_POSITIONAL if cls.variable else inspect.Parameter.POSITIONAL_OR_KEYWORD
        empty = inspect.Parameter.empty
        signature = inspect.Signature(
            [
                inspect.Parameter(argument, how, default=empty if f.default is MISSING else f.default)
                for argument, f in own.items()
            ]
        )

        def construct(*args: Any, **kwargs: Any) -> Shape:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{error}; it is {usage(construct)}") from None
            return cls(**{own[argument].name: value for argument, value in bound.arguments.items()})

        construct.__name__ = construct.__qualname__ = name
        construct.__doc__ = cls.__doc__
        construct.__module__ = "surefoot.schedule"
        construct.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        SHAPES[name] = construct
        return cls

    return decorate


def usage(function: Callable[..., Any]) -> str:
    """How a function is called: its name and its arguments, with defaults."""
    each = inspect.signature(function).parameters.values()
    told = (str(p.replace(annotation=inspect.Parameter.empty)).replace(" = ", "=") for p in each)
    return f"{function.__name__}({', '.join(told)})"


def _written(value: Any, python: bool) -> str:
    if isinstance(value, tuple):
        each = ", ".join(_written(one, python) for one in cast("tuple[Any, ...]", value))
        return f"({each},)" if len(cast("tuple[Any, ...]", value)) == 1 else f"({each})"
    if isinstance(value, Duration | str):
        return repr(value) if python else str(value)
    return plain(value) if isinstance(value, int | float) else repr(value)
