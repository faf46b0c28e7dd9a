"""Where the sound programs are kept, and what each tells of its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Watch = Callable[..., Any]  # sf.watch, or what stands in for it


@dataclass(frozen=True)
class Outcome:
    """What a training has come to. All three are the same loss, measured alike, outside the watched time.

    Attributes:
        first: the loss before the first step
        last: the loss after the last step
        base: the loss of the best answer that does not look at the inputs; where there is none, `first`
    """

    first: float
    last: float
    base: float


Function = Callable[[Watch, int], Outcome]


@dataclass(frozen=True)
class Healthy:
    """A sound training that looks odd: a warning on it is a false alarm.

    Attributes:
        name: what is odd about it
        family: the kind of data and model
        part: "building" (detectors may be made by it) or "measuring" (only to measure them)
        function: `program(watch, seed)`, the training
    """

    name: str
    family: str
    part: str
    function: Function


HEALTHY: dict[str, Healthy] = {}


def healthy(name: str, *, family: str, part: str) -> Callable[[Function], Function]:
    """Register a program under its name; names are used once."""

    def register(function: Function) -> Function:
        if name in HEALTHY:
            raise ValueError(f"two healthy programs are called {name!r}")
        HEALTHY[name] = Healthy(name, family, part, function)
        return function

    return register
