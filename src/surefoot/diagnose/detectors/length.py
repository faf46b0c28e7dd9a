"""Length, data and capacity: what is left when steps are of the right size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from surefoot.diagnose import symptom as seen
from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.reading import Reading, median

WAITING = 0.6  # the share of time
NOISE = 0.25  # cosine of successive gradients, and overshoot, below which there is no signal at the start


def overtrained(r: Reading) -> Iterator[Claim]:
    """Validation has turned, and training goes on."""
    found = seen.turned(r)
    if found is not None and not seen.diverging(r) and not seen.non_finite(r):
        step, low, last = found
        yield Claim(
            "overtrained",
            "warning",
            (Evidence("val_loss_best", low), Evidence("val_loss", last)),
            first_step=step,
            symptom="overfitting",
        )


def input_bound(r: Reading) -> Iterator[Claim]:
    """Most of the time goes into waiting for data."""
    waits = np.array(r.signals.waits.items[2:])
    if len(waits) >= 3 and r.steps >= 20 and median(waits) > WAITING:
        yield Claim("input-bound", "info", (Evidence("waited", median(waits), WAITING),), symptom="wasteful")


def undertrained(r: Reading) -> Iterator[Claim]:
    """All is well, and the loss still falls when the training ends."""
    if not r.over or r.steps < max(12, r.planned or 0) or r.now > 0.9:
        return
    falls = r.sure > 2 and r.slope > 0.02
    young = r.steps < 150 and r.early_overshoot > 0.4 and r.largest < 0.2 and r.now < 0.5
    if falls or young:
        half, low = _middle(r), r.level
        made, rest = r.start - half, half - low
        much = rest > 0.7 * made and r.now < 0.5  # at this pace more than half of the fall is still to come
        yield Claim(
            "undertrained",
            "warning" if much or r.now < 0.05 else "info",
            (Evidence("loss_fall", r.slope), Evidence("steps", r.steps)),
            symptom="slow-convergence",
        )


def _middle(r: Reading) -> float:
    """The loss half way."""
    half = len(r.finite) // 2
    return median(r.finite[max(0, half - max(2, half // 10)) : half + max(2, half // 10)])


def unlearnable(r: Reading) -> Iterator[Claim]:
    """Weights move, gradients are noise from the start, and the loss stays at its base rate."""
    if r.steps < 60 or not math.isfinite(r.base) or not len(r.ratios):
        return
    if learnt_by_heart(r):
        lowest = min(r.validated)
        yield Claim(
            "data-unlearnable",
            "critical",
            (Evidence("val_loss_best", lowest), Evidence("base_rate", r.base), Evidence("loss", r.level)),
        )
        return
    noise = r.early_agreement < NOISE and r.early_overshoot < 2 * NOISE
    noise = noise or (r.agreement < 0 and r.overshoot < 0 and r.usual < 0.02)  # what was common to all items is learnt
    noise = noise or (len(r.validated) >= 3 and min(r.validated) > 0.97 * r.base > 0)
    if (
        abs(r.now) < 2 * seen.NOTHING
        and r.learned < 0.15
        and 1.5e-3 < r.largest < 0.3
        and noise
        and r.depth > seen.DEPTH
    ):
        linear = bool(r.facts.get("linear"))  # then it may be that the data need more than one layer
        yield Claim(
            "too-little-capacity" if linear else "data-unlearnable",
            "warning" if linear else "critical",
            (
                Evidence("loss", r.level),
                Evidence("base_rate", r.base),
                Evidence("agreement", r.early_agreement, NOISE),
                Evidence("update_ratio", r.usual),
            ),
        )


def learnt_by_heart(r: Reading) -> bool:
    """Whether validation has never been better than the base rate, while the training loss went below it."""
    losses = r.validated
    return (
        len(losses) >= 3 and min(losses) > 0.92 * r.base > 0 and r.now > 0.05 and r.largest > 1.5e-3 and r.steps >= 60
    )


def capacity(r: Reading) -> Iterator[Claim]:
    """A layer of one or two units that everything must pass, and a loss that stays where it is."""
    narrow: dict[str, int] = r.facts.get("narrow", {})
    bottom = -0.1 if 1 in narrow.values() else seen.NOTHING
    if narrow and r.steps >= 50 and bottom < r.now < 0.6:
        embedded = not r.facts.get("gains")  # one number an item may be all that there is: a player's strength, say
        yield Claim("too-little-capacity", "info" if embedded else "warning",
                    (Evidence("width", min(narrow.values())),), tuple(narrow))  # fmt: skip


DETECTORS = (overtrained, unlearnable, capacity, undertrained, input_bound)
