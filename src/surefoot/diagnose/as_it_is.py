"""What a watch knows of a loop that a probe is to go on with: its clipping, its rate, its loss."""

from __future__ import annotations

import math

import numpy as np

from surefoot.diagnose.reading import Reading, median
from surefoot.watch.signals import Signals

SAME = 1.05  # how far the norms after clipping may differ
FEW = 3


def clip(signals: Signals) -> float | None:
    """The norm at which the loop clips by itself; None where it does not, or it is not one norm: where it clips, all
    gradients have that norm afterwards."""
    factors = {look.step: look.clip for look in signals.looks.items}
    norms = [s.grad_norm for s in signals.steps.items if factors.get(s.step, 1.0) < 0.95 and s.clip != s.clip]
    norms = [norm for norm in norms if math.isfinite(norm)]
    return median(norms) if len(norms) >= FEW and max(norms) < SAME * min(norms) else None


def weight(signals: Signals) -> float:
    """With which the loss of a step reaches backward: 1 as a rule, or what the loop multiplies it by.

    A loss scale, which is taken out again, does not count.
    """
    known = [step for step in signals.steps.items if math.isfinite(step.weight) and step.weight]
    if not known:
        return 1.0
    whole = known[-1].weight * max(known[-1].backwards, 1)
    return whole if abs(whole) < 1.5 else math.copysign(1.0, whole)


def rate(signals: Signals) -> float | None:
    """The learning rate to begin from: the present one or, after a schedule, what was usual in the last half."""
    lrs = signals.column("lr")
    lrs = lrs[np.isfinite(lrs)]
    return max(float(lrs[-1]), median(lrs[len(lrs) // 2 :])) if len(lrs) else None


def level(signals: Signals) -> float:
    """The loss of a model that knows nothing, or where the loss began; NaN where neither is known."""
    return abs(Reading(signals).reference)
