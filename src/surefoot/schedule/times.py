"""Lengths of time: plain numbers, which count whatever drives a schedule, and those with a unit, such as "5ep"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from surefoot.errors import UserError

UNITS = {"ep": "epochs", "st": "steps", "sa": "samples", "tok": "tokens", "%": "percent of the run"}
NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
TEXT = re.compile(rf"\s*({NUMBER})\s*({'|'.join(UNITS)})\s*", re.ASCII)


@dataclass(frozen=True)
class Duration:
    """A length of time with a unit; its text is "5ep", "2000st", "4096sa", "1e9tok" or "5%".

    >>> duration("5ep").unit
    'ep'
    """

    value: float
    unit: str

    def __str__(self) -> str:
        return f"{plain(self.value)}{self.unit}"

    def __repr__(self) -> str:
        return repr(str(self))


Time = float | Duration


def duration(text: str) -> Duration:
    """A length of time from its text.

    Raises:
        UserError: for a text that is none
    """
    found = TEXT.fullmatch(text)
    if not found or not math.isfinite(float(found[1])):
        units = ", ".join(f'"5{unit}" ({name})' for unit, name in UNITS.items())
        raise UserError(f"{text!r} is no length of time: write a number, or {units}")
    return Duration(float(found[1]), found[2])


def plain(value: float) -> str:
    """A number as a person writes it: 1 for 1.0, but exact."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e16 else repr(value)


@dataclass(frozen=True)
class Clock:
    """How long units are, in what drives a schedule.

    total: the length of the whole run; None: not known
    units: the length of one epoch, step, sample, token, by their short names, as far as known
    """

    total: float | None = None
    units: Mapping[str, float] = field(default_factory=dict[str, float])

    def of(self, time: Duration) -> float:
        """A length of time as a plain number.

        Raises:
            UserError: where what is needed for that is not known
        """
        if time.unit == "%":
            if self.total is None:
                raise UserError(f"{time} of the run: say how long that is with total=")
            return time.value / 100 * self.total
        if time.unit not in self.units:
            raise UserError(f"{time}: {NEEDED[time.unit]}")
        return time.value * self.units[time.unit]


NEEDED = {
    "ep": "say how many steps an epoch has with steps_per_epoch=",
    "st": "say that steps are what is counted, with steps_per_epoch= or total=",
    "sa": "say how many samples a step takes with samples_per_step=",
    "tok": "say how many tokens a step takes with tokens_per_step=",
}
