"""A schedule's text form, as recipes and the command line write it: `"linear(0.1, 1, 5) >> cosine"`.

    schedule = shape (">>" shape)*
    shape    = name [ "(" [ argument ("," argument)* ] ")" ]
    argument = [ name "=" ] number

A small parser reads this grammar and nothing else: no `eval`, no names but the shapes'.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from surefoot.errors import UserError, unknown
from surefoot.schedule.shapes import SHAPES, Schedule, Shape

TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)(?![\w.])|(?P<name>[A-Za-z_]\w*)|(?P<sign>>>|[(),=]))"
)


def parse(text: str) -> Schedule:
    """Read a schedule from its text form.

    >>> parse("linear(0.1, 1, 5) >> cosine(195)")
    linear(0.1, 1, 5) >> cosine(195)

    Raises:
        UserError: for anything but a schedule, with the place where reading stopped
    """
    return _Parser(text).schedule()


class _Parser:
    """Recursive descent over the grammar above; `self.kind, self.token` is the token at hand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._scan()
        self._next()

    def schedule(self) -> Schedule:
        schedule: Schedule = self._shape()
        while self._accept(">>"):
            schedule = schedule >> self._shape()
        if self.kind != "end":
            raise self._error("'>>' or the end")
        return schedule

    def _shape(self) -> Shape:
        if self.kind != "name":
            raise self._error(f"a shape ({', '.join(SHAPES)})")
        name = self.token
        if name not in SHAPES:
            raise unknown(f"shape in schedule {self.text!r}:", name, SHAPES)
        self._next()
        args: list[float] = []
        named: dict[str, float] = {}
        if self._accept("("):
            while not self._accept(")"):
                if args or named:
                    self._expect(",")
                self._argument(name, args, named)
        return self._build(name, args, named)

    def _argument(self, shape: str, args: list[float], named: dict[str, float]) -> None:
        if self.kind == "name":
            name = self.token
            known = inspect.signature(SHAPES[shape]).parameters
            if name not in known:
                raise unknown(f"argument of {shape} in schedule {self.text!r}:", name, known)
            if name in named:
                raise self._error(f"{name} only once")
            self._next()
            self._expect("=")
            named[name] = self._number()
        elif named:
            raise self._error("a named argument after a named argument")
        else:
            args.append(self._number())

    def _number(self) -> float:
        if self.kind != "number":
            raise self._error("a number")
        value = float(self.token)
        self._next()
        return value

    def _build(self, name: str, args: list[float], named: dict[str, float]) -> Shape:
        shape = SHAPES[name]
        try:
            bound = inspect.signature(shape).bind(*args, **named)
        except TypeError as error:
            usage = f"{name}{inspect.signature(shape).replace(return_annotation=inspect.Signature.empty)}"
            raise UserError(f"schedule {self.text!r}: {name}: {error}; it is {_plain(usage)}") from None
        return shape(*bound.args, **bound.kwargs)

    def _accept(self, token: str) -> bool:
        found = self.kind == "sign" and self.token == token
        if found:
            self._next()
        return found

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise self._error(repr(token))

    def _next(self) -> None:
        self.kind, self.token, self.place = next(self.tokens)

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        place = 0
        while self.text[place:].strip():
            match = TOKEN.match(self.text, place)
            if not match:
                place += len(self.text[place:]) - len(self.text[place:].lstrip())
                yield "unreadable", self.text[place], place
                return
            kind = str(match.lastgroup)
            yield kind, match[kind], match.start(kind)
            place = match.end()
        yield "end", "", len(self.text)

    def _error(self, wanted: str) -> UserError:
        found = repr(self.token) if self.token else "the end"
        return UserError(f"schedule {self.text!r}: expected {wanted}, found {found} at character {self.place + 1}")


def _plain(signature: str) -> str:
    """A signature without its annotations."""
    return re.sub(r": '[^']*'", "", signature).replace(" = ", "=")
