"""What a rule is: an optimizer's mathematics for one element, written once and run by every backend.

A rule knows no tensor, no device and no loop. It is two pure functions:

    scalars(t, <hyper-parameters>)                  -> numbers     once per distinct step, in double precision
    direction(g, p, <states>, <those numbers>)      -> d, <states> elementwise

and the engine does `p -= lr * (d + weight_decay * p)`. A rule that first needs a number of the whole tensor, such as
its norm, has two more: what to add up over the elements, and what to make of the sums,

    terms(g, p, <states>, <scalars>)                -> what is summed, elementwise
    factors(n, <sums>, <scalars>)                   -> numbers that `direction` takes after the scalars

for a tensor of n elements. So that the same `direction` runs as torch operations, as a compiled loop and as a GPU
kernel, it (and `terms`) holds no numeric literal, no `**`, no `if` and no closure, and calls only the six operations
below, which every backend binds to its own (`bind`). Here they are bound to Python floats, so a rule also runs on
plain numbers:

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
log: Callable[[X], X] = math.log  # for `scalars` alone
maximum: Callable[[X, X], X] = max
minimum: Callable[[X, X], X] = min
absolute: Callable[[X], X] = abs


def sign(x: X) -> X:
    return 1.0 * ((x > 0) - (x < 0))


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
    scalars: `scalars(t, *hyper, *numbers)`: the numbers that `direction` needs at step t (the first step is t = 1), and
        then the new `numbers`
    direction: `direction(g, p, *states, *scalars)`: returns the direction d, then the new states
    states: the names of the states, as torch.optim writes them into a state_dict
    start: for a state or number that does not start at zero: a number, the name of a hyper-parameter, or "p"
    counted: whether a state_dict holds the step count. Without it `t` is 1 at the first step and 2 ever after
    momentum: the state that averages gradients, if one does
    numbers: the names of numbers that go on from step to step, kept for each parameter like its step count
    whole: d is all that is subtracted from p. The rate and decoupled weight decay are then the rule's: its functions
        take them last, as `lr, decay`
    terms: `terms(g, p, *states, *scalars)`: what is added up over the elements of a tensor before `direction` is asked
    factors: `factors(n, *sums, *scalars)`: what follows from the sums, and is given to `direction` after the scalars
    common: hyper-parameters that sums over all parameters of the optimizer change: `factors(*sums, *hyper)` returns
        their new values then
    sparse: whether rows that a sparse gradient does not hold stay as they are, and so do their states
    given: `direction(g, p, o, ...)` takes what matrix operations have made of the gradient
    """

    name: str
    scalars: Callable[..., tuple[X, ...]]
    direction: Callable[..., tuple[X, ...]]
    states: tuple[str, ...] = ()
    start: Mapping[str, str | float] = field(default_factory=dict[str, "str | float"])
    counted: bool = True
    momentum: str = ""
    numbers: tuple[str, ...] = ()
    whole: bool = False
    terms: Callable[..., tuple[X, ...]] | None = None
    factors: Callable[..., tuple[X, ...]] | None = None
    common: tuple[str, ...] = ()
    sparse: bool = False
    given: bool = False

    @cached_property
    def hyper(self) -> tuple[str, ...]:
        """The names of the hyper-parameters that `scalars` takes after t."""
        names = tuple(inspect.signature(self.scalars).parameters)
        return names[1 : len(names) - len(self.numbers)]

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The names of all hyper-parameters that must be known to run it."""
        started = [s for s in self.start.values() if isinstance(s, str) and s != "p"]
        return tuple(dict.fromkeys((*self.hyper, *started)))

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """How many scalars, sums and factors there are."""
        around = 2 + len(self.states) + 2 * self.whole
        taken = len(inspect.signature(self.direction).parameters) - around - self.given
        if self.terms is None:
            return taken, 0, 0
        scalars = len(inspect.signature(self.terms).parameters) - around
        sums = len(self.terms(*[1.0] * (around + scalars)))
        return scalars, sums, taken - scalars
