"""What a check finds, and words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Found:
    """Something that is certainly wrong.

    cause: its code
    text: what it is and what to do, in a sentence or two
    where: the parameters, layers or tensors that it concerns
    evidence: the numbers that a reader can check
    """

    cause: str
    text: str
    where: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
