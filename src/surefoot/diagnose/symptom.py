"""What one sees of a training, whatever its cause."""

from __future__ import annotations

import math

import numpy as np

from surefoot.diagnose.reading import Reading, median

LEAST = 8  # steps before which a loss curve says nothing
NOTHING = 0.03  # a loss that has fallen by less of its reference has shown no learning
DEPTH = 1e-3  # first layers' gradients relative to the last ones'


def symptom(r: Reading) -> str:
    """The symptom that the signals show; "silent" where there is none."""
    return next((name for name, seen in SYMPTOMS.items() if seen(r)), "silent")


def non_finite(r: Reading) -> bool:
    broken = r.counts.broken_losses
    return broken > 0 and (broken > 0.02 * r.steps or not bool(np.isfinite(r.losses[-3:]).any()))


def no_op(r: Reading) -> bool:
    """Steps are taken (or should be) and nothing moves."""
    if not r.looks:
        return r.counts.backwards >= LEAST and r.steps == 0
    still = not any(bool((look.update > 0).any()) for look in r.looks)
    return still and any(bool((look.grad > 0).any()) for look in r.looks)


def diverging(r: Reading) -> bool:
    """The loss has left its best level far behind, or is far above where it began, and does not come back."""
    if len(r.finite) < LEAST:
        return False
    low = max(r.best, 0.0)
    up = r.level - r.best
    return (r.level > 1.5 * r.start + 3 * _noise(r) and up > 0.5 * abs(r.start) and not falling(r)) or (
        r.level > 3 * max(low, 1e-12) and r.level > r.start and up > 10 * _noise(r)
    )


def exploding(r: Reading) -> bool:
    """Gradients have grown a hundredfold, or do so from time to time, and that does not bring the loss down."""
    norms = r.norms[np.isfinite(r.norms)]
    if len(norms) < LEAST or falling(r):
        return False
    usual = median(norms)
    return median(norms[-5:]) > 100 * max(median(norms[:5]), 1e-12) or (
        bool((norms[len(norms) // 2 :] > 100 * usual).sum() >= 2) and r.now < 0.5
    )


def vanishing(r: Reading) -> bool:
    """The first layers get next to no gradient, and nothing is learnt."""
    return r.depth < DEPTH and r.now < 0.3


def spiking(r: Reading) -> bool:
    return 1 <= len(r.spikes) <= 0.06 * len(r.losses)


def oscillating(r: Reading) -> bool:
    """The loss goes up and down by a large part of itself, and gets nowhere."""
    if len(r.finite) < 2 * LEAST:
        return False
    return r.wild > 0.25 and r.now < 0.6 and not falling(r) and r.noise > 0.1 * abs(r.start)


def not_decreasing(r: Reading) -> bool:
    return len(r.finite) >= LEAST and r.now < NOTHING and not (falling(r) and r.slope > 0.01)


def overfitting(r: Reading) -> bool:
    return turned(r) is not None


def turned(r: Reading) -> tuple[int, float, float] | None:
    """The step at which the validation loss was least, that loss and the last one, where it has turned for good."""
    rows = [(v.step, v.loss) for v in r.signals.validations.items if math.isfinite(v.loss)]
    if len(rows) < 4:
        return None
    losses = np.array([loss for _, loss in rows])
    at = int(losses.argmin())
    after = losses[at + 1 :]
    if len(after) < 3 or at > 0.7 * len(losses):
        return None
    last = median(after[-3:])
    jumps = median(np.abs(np.diff(losses))) or 1e-12
    up = last - losses[at]
    return (rows[at][0], float(losses[at]), last) if up > 0.15 * abs(losses[at]) and up > 2 * jumps else None


def falling(r: Reading) -> bool:
    """The loss still falls: by more than chance would."""
    return r.sure > 3 and r.slope > 0.005


def slow(r: Reading) -> bool:
    """It still falls, and has a long way to go."""
    return falling(r) and r.now < 0.9


def plateau(r: Reading) -> bool:
    """It fell, and now stays where much is left."""
    return len(r.finite) >= 4 * LEAST and NOTHING <= r.now < 0.7 and not falling(r)


def _noise(r: Reading) -> float:
    return r.noise if math.isfinite(r.noise) else 0.0


SYMPTOMS = {
    "non-finite": non_finite,
    "no-op-step": no_op,
    "diverging": diverging,
    "exploding-gradient": exploding,
    "vanishing-gradient": vanishing,
    "loss-oscillating": oscillating,
    "loss-not-decreasing": not_decreasing,
    "overfitting": overfitting,
    "loss-spike": spiking,
    "slow-convergence": slow,
    "plateau": plateau,
}
