"""What a detector claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.diagnose.finding import Evidence, Severity
from surefoot.diagnose.knowledge import LANGUAGES, Words


def in_words(words: Words) -> tuple[tuple[str, str], ...]:
    """A sentence in all languages, as `details` are."""
    return tuple((language, words(language)) for language in LANGUAGES)


@dataclass(frozen=True)
class Claim:
    """A cause and its evidence; the symptom only where the cause brings one of its own.

    certain: whether it is a fact, not a conclusion: facts come before conclusions
    """

    cause: str
    severity: Severity
    evidence: tuple[Evidence, ...] = ()
    where: tuple[str, ...] = ()
    first_step: int = 0
    symptom: str = ""
    certain: bool = False
    details: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Claim:
        """A claim from its fields as JSON gives them."""
        evidence = tuple(Evidence(**each) for each in data["evidence"])
        details = tuple((language, text) for language, text in data["details"])
        own: dict[str, Any] = {**data, "evidence": evidence, "where": tuple(data["where"]), "details": details}
        return cls(**own)
