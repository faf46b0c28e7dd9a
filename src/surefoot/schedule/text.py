"""A schedule's text form, as recipes and the command line write it: `"warmup(5ep) >> cosine"`.

It is Python's syntax for what `repr` writes, but that lengths with units need no quotes and shapes without arguments no
brackets. Python's parser reads it, and then nothing but the names of shapes and of the algebra's methods is taken:
there is no `eval`.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from typing import Any

from surefoot.errors import UserError, unknown
from surefoot.schedule.schedule import Schedule
from surefoot.schedule.shape import SHAPES, usage
from surefoot.schedule.times import NUMBER, UNITS
from surefoot.schedule.torch_names import TORCH

LENGTH = re.compile(rf"(?<![\w.'\"])({NUMBER}(?:{'|'.join(UNITS)}))(?!\w)", re.ASCII)
METHODS = ("cut", "floor", "repeat", "scaled", "stretch")
LONGEST = 10_000  # characters
EXAMPLE = 'write it as "warmup(5) >> cosine"'


def parse(text: str) -> Schedule:
    """Read a schedule from its text form.

    >>> parse("warmup(5ep) >> cosine(195) * plateau(0.5, mode=max)")
    warmup('5ep') >> cosine(195) * plateau(0.5, mode='max')

    Raises:
        UserError: for anything but a schedule, naming the part that is none
    """
    shown = f"schedule {text!r}" if len(text) <= 100 else f"schedule {text[:100]!r}..."
    if len(text) > LONGEST:
        raise UserError(f"{shown} has {len(text)} characters: {LONGEST} will do for any schedule")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, on what is refused below
            tree = ast.parse(LENGTH.sub(r"'\1'", text).strip(), mode="eval").body
        found = _value(tree)
    except SyntaxError as error:
        raise UserError(f"{shown}: it cannot be read: {str(error.msg)[:80]}; {EXAMPLE}") from None
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{shown}: {error}") from None
        raise UserError(f"{shown}: it is too deep, or its numbers are too long") from None
    if not isinstance(found, Schedule):
        raise UserError(f"{shown}: {ast.unparse(tree)} is no schedule; {EXAMPLE}")
    return found


def _value(node: ast.expr) -> Any:
    """A schedule, a number, a text, or a tuple of such."""
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() | str() as value):
            return float(value) if isinstance(value, int) and value >= 2**53 else value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=each) | ast.List(elts=each):
            return tuple(_value(one) for one in each)
        case ast.Name(id=name):
            return _called(name, _shape(name), [], [])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=named):
            return _called(name, _shape(name), args, named)
        case ast.Call(func=ast.Attribute(value=inner, attr=name), args=args, keywords=named):
            if name not in METHODS:
                raise unknown("method of schedules", name, METHODS)
            return _called(name, getattr(_schedule(inner), name), args, named)
        case ast.BinOp(left=left, op=ast.RShift(), right=right):
            return _schedule(left) >> _schedule(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            a, b = _value(left), _value(right)
            if not isinstance(a, Schedule):
                a, b = b, a
            if not isinstance(a, Schedule) or isinstance(b, str | tuple):
                raise UserError(f"{ast.unparse(node)} is no schedule")
            return a * b
        case _:
            pass
    raise UserError(f"{ast.unparse(node)} is no part of a schedule; {EXAMPLE}")


def _schedule(node: ast.expr) -> Schedule:
    found = _value(node)
    if not isinstance(found, Schedule):
        raise UserError(f"{ast.unparse(node)} is no schedule")
    return found


def _shape(name: str) -> Any:
    if name in TORCH:
        raise UserError(f"{name} is torch's name; here it is {TORCH[name]}")
    if name not in SHAPES or name == "function":
        raise unknown("shape", name, SHAPES.keys() - {"function"})
    return SHAPES[name]


def _called(name: str, function: Any, args: list[ast.expr], named: list[ast.keyword]) -> Any:
    signature = inspect.signature(function)
    for i, each in enumerate(named):
        if each.arg not in signature.parameters:
            raise unknown(f"argument of {name}:", each.arg or ast.unparse(each.value), signature.parameters)
        if each.arg in (other.arg for other in named[:i]):
            raise UserError(f"{name}: {each.arg} is given twice")
    try:
        return function(*map(_argument, args), **{str(each.arg): _argument(each.value) for each in named})
    except TypeError as error:
        known = "" if "; it is " in str(error) else f"; it is {usage(function)}"
        raise UserError(f"{name}: {error}{known}") from None


def _argument(node: ast.expr) -> Any:
    """An argument; words need no quotes."""
    return node.id if isinstance(node, ast.Name) else _value(node)
