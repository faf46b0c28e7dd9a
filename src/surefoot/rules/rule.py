"""What a rule is: an optimizer's mathematics for one element, written once and run by every backend.

A rule knows no tensor, no device and no loop. It is two pure functions:

    scalars(t, <hyper-parameters>)                  -> numbers     once per distinct step, in double precision
    direction(g, p, <states>, <those numbers>)      -> d, <states> elementwise

and the engine does `p -= lr * (d + weight_decay * p)`. So that the same `direction` runs as torch operations, as a
compiled loop and as a GPU kernel, it holds no numeric literal, no `**`, no `if` and no closure, and calls only the
six operations below, which every backend binds to its own (`bind`). Here they are bound to Python floats, so a rule
also runs on plain numbers:

>>> from surefoot.rules import adam
>>> d, m, v = adam.adam.direction(2.0, 1.0, 0.0, 0.0, *adam.adam.scalars(1, 0.9, 0.999, 0.0))
>>> round(d, 12)                                     # at its first step Adam moves by the sign of the gradient
1.0
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

X: TypeAlias = Any  # one element, or whatever a backend lets stand for it: a float, a tensor, a vector lane

sqrt = math.sqrt
maximum: Callable[[X, X], X] = max
minimum: Callable[[X, X], X] = min
absolute: Callable[[X], X] = abs


def sign(x: X) -> X:
    return (x > 0) - (x < 0)


def where(condition: X, x: X, y: X) -> X:
    return x if condition else y


OPERATIONS = ("sqrt", "where", "maximum", "minimum", "absolute", "sign")


def bind(function: Callable[..., X], operations: Mapping[str, Callable[..., X]]) -> Callable[..., X]:
    """The same code, looking the six operations up in `operations`."""
    namespace = {**function.__globals__, **operations}
    return types.FunctionType(function.__code__, namespace, function.__name__)


@dataclass(frozen=True, eq=False)
class Rule:
    """One update rule.

    name: the algorithm, in the words of its paper
    scalars: `scalars(t, *hyper)`: the numbers that `direction` needs at step t (the first step is t = 1)
    direction: `direction(g, p, *states, *scalars)`: returns the direction d, then the new states
    states: the names of the states, as torch.optim writes them into a state_dict
    start: for a state that does not start at zero, the hyper-parameter that it starts at
    counted: whether a state_dict holds the step count. Without it `t` is 1 at the first step and 2 ever after
    momentum: the state that averages gradients, if one does
    """

    name: str
    scalars: Callable[..., tuple[X, ...]]
    direction: Callable[..., tuple[X, ...]]
    states: tuple[str, ...] = ()
    start: Mapping[str, str] = field(default_factory=dict[str, str])
    counted: bool = True
    momentum: str = ""

    @cached_property
    def hyper(self) -> tuple[str, ...]:
        """The names of the hyper-parameters that `scalars` takes after t."""
        return tuple(inspect.signature(self.scalars).parameters)[1:]
