"""Where the faulty programs of the outside parts are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Watch = Callable[..., Any]  # sf.watch, or what stands in for it
Function = Callable[[Watch, int, bool], float]


@dataclass(frozen=True)
class Faulty:
    """A faulty training, written without a look at the detectors.

    family: the kind of data and model
    causes: the codes that are right for it; the first is the fault it was made with
    symptoms: those that are right
    function: `program(watch, seed, mended)`: the training, with the fault or (`mended`) with its remedy applied;
        returns what it has come to on sound data, lower is better
    """

    name: str
    family: str
    causes: tuple[str, ...]
    symptoms: tuple[str, ...]
    function: Function

    @property
    def part(self) -> str:
        """ "outside" or "outside2": the package that it is in."""
        return self.function.__module__.split(".")[2]


FAULTY: dict[str, Faulty] = {}


def faulty(name: str, *, family: str, causes: str, symptoms: str) -> Callable[[Function], Function]:
    """Register a program under its name; names are used once. Codes are parted by blanks."""

    def register(function: Function) -> Function:
        if name in FAULTY:
            raise ValueError(f"two faulty programs are called {name!r}")
        FAULTY[name] = Faulty(name, family, tuple(causes.split()), tuple(symptoms.split()), function)
        return function

    return register
