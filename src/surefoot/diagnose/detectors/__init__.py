"""What finds causes in the signals of a training. Each detector is a function from a reading to claims."""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.diagnose.detectors import data, initial, length, rate, stepping, units
from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.reading import Reading

DETECTORS = (
    *data.DETECTORS,
    *stepping.DETECTORS,
    *initial.DETECTORS,
    *units.DETECTORS,
    *rate.DETECTORS,
    *length.DETECTORS,
)


def claims(r: Reading) -> Iterator[Claim]:
    """What all detectors claim."""
    for detector in DETECTORS:
        yield from detector(r)


__all__ = ["DETECTORS", "Claim", "claims"]
