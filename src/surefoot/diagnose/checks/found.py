"""What a check finds, and words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surefoot.diagnose.knowledge import LANGUAGES, Words, said, sentence

COMMAS = {"en": ", ", "zh": "、"}


@dataclass(frozen=True)
class Found:
    """Something that is certainly wrong.

    cause: its code
    text: what it is and what to do, in a sentence or two of either language
    where: the parameters, layers or tensors that it concerns
    evidence: the numbers that a reader can check
    """

    cause: str
    text: Words
    where: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])


def some(names: Sequence[str | Words], most: int = 4) -> Words:
    """The first names, and how many more there are.

    >>> some(["a", "b", "c"], most=2)("en")
    'a, b and 1 more'
    """
    first = Words(*(COMMAS[each].join(said(name, each) for name in names[:most]) for each in LANGUAGES))
    return sentence("and-more", names=first, count=len(names) - most) if len(names) > most else first
