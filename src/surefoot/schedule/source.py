"""A schedule as plain Python, which needs nothing but `math`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from surefoot.errors import UserError
from surefoot.schedule.algebra import Chain, Cut, Floor, Product, Repeat, Scaled, Stretch
from surefoot.schedule.custom import OfUser
from surefoot.schedule.plateau import Plateau
from surefoot.schedule.schedule import Schedule
from surefoot.schedule.shape import LARGEST, Shape, raised
from surefoot.schedule.times import Duration, plain


def plain_python(schedule: Schedule, total: str, units: Mapping[str, str]) -> tuple[str, str]:
    """Definitions, and an expression in `t` that uses them.

    Args:
        total: what the length of the run is in the text
        units: what the lengths of an epoch and so on are

    Raises:
        UserError: for a plateau, and for a function of the user's own

    >>> from surefoot.schedule import cosine, warmup
    >>> plain_python(warmup(5) >> cosine(), "total", {})[1]
    '(warmup(min(t, 5), 0, 5) if t < 5 else cosine(min(t - 5, max(total - 5, 1)), 0, max(total - 5, 1)))'
    """
    text = _Text(units, {})
    expression = text.of(schedule, "t", total)
    return "\n\n".join(text.definitions.values()), expression


@dataclass
class _Text:
    units: Mapping[str, str]
    definitions: dict[str, str]

    def of(self, schedule: Schedule, t: str, rest: str) -> str:
        """The schedule's value at the time `t`, where `rest` of the run is left from its beginning on."""
        match schedule:
            case Plateau() | OfUser():
                raise UserError(f"plain PyTorch code cannot have {schedule}: train with sf.train")
            case Shape():
                return self._shape(schedule, t, rest)
            case Chain(parts=parts):
                return self._chain(parts, t, rest)
            case Product(a=a, b=b):
                return f"{self.of(a, t, rest)} * {self.of(b, t, rest)}"
            case Scaled(inner=inner, factor=factor):
                return f"{plain(factor)} * {self.of(inner, t, rest)}"
            case Floor(inner=inner, least=least):
                return f"max({self.of(inner, t, rest)}, {plain(least)})"
            case Cut(inner=inner, length=length):
                return self.of(inner, f"min({t}, {self._time(length)})", rest)
            case Repeat(inner=inner, times=times):
                period = self._length(inner, f"({rest}) / {times}")
                whole = self.of(inner, f"({t}) % ({period})", period)
                if times is None:
                    return whole
                return f"({whole} if {t} < {times} * ({period}) else {self.of(inner, period, period)})"
            case Stretch(inner=inner, total=total):
                length = self._time(total)
                own = self._length(inner, length)
                return self.of(inner, f"(min({t}, {length}) / ({length}) * ({own}))", length)
            case _:
                raise UserError(f"plain PyTorch code cannot have {schedule}")

    def _shape(self, shape: Shape, t: str, rest: str) -> str:
        self._define(shape)
        length = rest if shape.lasts is None else self._time(shape.lasts)
        arguments = [length if name == "length" else self._value(getattr(shape, name)) for name in shape.told()]
        if shape.stretches or shape.lasts is not None:
            t = f"min({t}, {length})"
        return f"{shape.name}({', '.join([t, *arguments])})"

    def _chain(self, parts: tuple[Schedule, ...], t: str, rest: str) -> str:
        first, *others = parts
        if not others:
            return self.of(first, t, rest)
        length = self._length(first, rest)
        after = self._chain(tuple(others), f"{t} - {length}", f"max({rest} - {length}, 1)")
        return f"({self.of(first, t, rest)} if {t} < {length} else {after})"

    def _length(self, schedule: Schedule, rest: str) -> str:
        """How long it lasts."""
        match schedule:
            case Shape():
                return rest if schedule.lasts is None else self._time(schedule.lasts)
            case Chain(parts=parts):
                return f"({' + '.join(self._length(part, rest) for part in parts)})" if schedule.ends else rest
            case Product(a=a, b=b):
                return f"max({self._length(a, rest)}, {self._length(b, rest)})"
            case Repeat(inner=inner, times=times) if times is not None:
                return f"{times} * ({self._length(inner, rest)})"
            case Stretch(total=length) | Cut(length=length):
                return self._time(length)
            case Scaled(inner=inner) | Floor(inner=inner):
                return self._length(inner, rest)
            case _:
                return rest

    def _value(self, value: Any) -> str:
        if isinstance(value, tuple):
            return f"({', '.join(self._value(one) for one in cast('tuple[Any, ...]', value))},)"
        return self._time(value) if isinstance(value, Duration | int | float) else repr(value)

    def _time(self, time: Any) -> str:
        if not isinstance(time, Duration):
            return plain(time)
        if time.unit not in self.units:
            raise UserError(f"plain PyTorch code cannot have {time}: it does not count {time.unit}")
        return f"{plain(time.value)} * {self.units[time.unit]}"

    def _define(self, shape: Shape) -> None:
        for name, function in ((shape.name, type(shape).value), ("raised", raised)):
            if name == shape.name or "raised(" in self.definitions[shape.name]:
                self.definitions.setdefault(name, _definition(function, name))


def _definition(function: Any, name: str) -> str:
    """A function's text, without what only types and classes need."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    tree.name, tree.decorator_list, tree.returns = name, [], None
    for argument in tree.args.args:
        argument.annotation = None
    if ast.get_docstring(tree):
        del tree.body[0]
    return ast.unparse(tree).replace("LARGEST", repr(LARGEST))
