"""From claims to findings: root causes first, what follows from them folded in, at most three."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from surefoot.diagnose import knowledge
from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Finding

MOST = 3
FALLBACK = ("data-unlearnable", "undertrained", "batch-too-large")  # what is left where nothing else explains it
BEFORE = ("dead-units", "saturated-units", "deep-vanishing", "deep-exploding")
GROUPS = ("data", "head", "wiring", "init", "rate", "length", "system")


def ranked(claims: Iterable[Claim], symptom: str, ignore: Collection[str] = ()) -> list[Finding]:
    """At most three findings, the root cause first.

    Facts come before conclusions, and within each the earlier in the order data, head and loss, wiring, initialisation,
    rate, length. What is only good to know comes last.

    Args:
        symptom: what the signals show, for causes that bring none of their own
        ignore: causes and symptoms that nobody wants to hear of
    """
    unique: dict[str, Claim] = {}
    for claim in claims:
        if claim.cause not in ignore:
            unique.setdefault(claim.cause, claim)
    order = sorted(unique.values(), key=_place)
    if any(claim.severity != "info" and claim.cause not in FALLBACK for claim in order):
        order = [claim for claim in order if claim.cause not in FALLBACK]
    roots: dict[str, str] = {}  # what follows from another one: that one
    for claim in order:
        root = next((other for other in order if other is not claim and _brings(other, claim)), None)
        if root is not None and roots.get(root.cause) != claim.cause:
            roots[claim.cause] = root.cause
    kept = [claim for claim in order if claim.cause not in roots]
    folded = {claim.cause: [cause for cause in roots if _root(cause, roots) == claim.cause] for claim in kept}
    found = [_finding(claim, symptom, folded[claim.cause]) for claim in kept]
    return [finding for finding in found if finding.symptom not in ignore][:MOST]


def _root(cause: str, roots: Mapping[str, str]) -> str:
    while cause in roots:
        cause = roots[cause]
    return cause


def _place(claim: Claim) -> tuple[bool, bool, int]:
    group = GROUPS.index(knowledge.cause(claim.cause).group)
    return claim.severity == "info", not claim.certain, group


def _brings(root: Claim, other: Claim) -> bool:
    """Whether one cause brings the other about. A fact is no consequence of a conclusion, nor what costs one of what is
    only good to know; and what was there before the first step is none of what steps do."""
    if other.cause not in knowledge.cause(root.cause).consequences or (other.certain and not root.certain):
        return False
    if root.severity == "info" and other.severity != "info":
        return False
    of_steps = knowledge.cause(root.cause).group == "rate"
    return not (of_steps and other.cause in BEFORE and other.first_step == 0)


def _finding(claim: Claim, symptom: str, folded: Sequence[str]) -> Finding:
    evidence = tuple(each for each in claim.evidence if each.value == each.value)  # what is NaN could not be measured
    return Finding(
        claim.symptom or symptom, claim.cause, claim.severity, claim.first_step, claim.where, evidence,
        tuple(knowledge.cause(claim.cause).alternatives), tuple(folded), claim.details,
    )  # fmt: skip
