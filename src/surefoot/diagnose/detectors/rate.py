"""The step size, and what acts as one: schedule, warm-up, clipping, decay, the kind of optimizer, the batch's size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from surefoot.diagnose import symptom as seen
from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.reading import Reading, median
from surefoot.watch.signals import Look

HIGH, LOW = 0.3, 1.5e-3  # the largest update / weight
BEYOND = -0.15  # overshoot
LARGE_GAIN = 4.0  # initial weights beyond which update / weight says little of the rate
SMALL_BATCH = 4
DECAY = 0.4  # the share of the update, or of the gradient, that is decay
DROPOUT = 0.7
PENALTY = 0.3  # the share of the loss
SPREAD = 50.0  # of update / weight over the layers


def too_high(r: Reading) -> Iterator[Claim]:
    """Weights that change by a large part at a step, and a loss that breaks, leaps or gets nowhere."""
    if r.steps < 3:
        return
    evidence = (Evidence("update_ratio", r.largest, HIGH), Evidence("loss", r.level), Evidence("loss_start", r.start))
    broken = seen.non_finite(r) or seen.diverging(r)
    leaps = seen.oscillating(r) or seen.not_decreasing(r) or seen.exploding(r) or r.now < 0.1
    if broken and not r.largest < LOW:
        yield Claim("lr-too-high", "critical", evidence)
    elif leaps and r.steps >= 8 and r.largest > HIGH and r.now < 0.5:
        yield Claim("lr-too-high", "critical" if r.now < seen.NOTHING else "warning", evidence)


def beyond(r: Reading) -> Iterator[Claim]:
    """First steps that end beyond the bottom, and a loss that has come to rest far up."""
    overshoots = r.early_overshoot < BEYOND and r.largest > HIGH / 2
    if r.steps >= 30 and overshoots and 0.1 < r.now < 0.5 and not seen.falling(r):
        yield Claim("lr-too-high", "info", (Evidence("overshoot", r.early_overshoot, BEYOND),
                    Evidence("update_ratio", r.largest), Evidence("loss", r.level)))  # fmt: skip


def too_low(r: Reading) -> Iterator[Claim]:
    """Weights that hardly move while the gradient keeps its direction, and a loss that has far to go."""
    if r.steps < 12 or not math.isfinite(r.largest) or r.largest == 0 or r.now > 0.6:
        return
    gains: dict[str, float] = r.facts.get("gains", {})
    if gains and median(list(gains.values())) > LARGE_GAIN:
        return
    if r.largest < LOW and not seen.non_finite(r) and not seen.diverging(r):
        yield Claim("lr-too-low", "critical" if r.now < seen.NOTHING else "warning", (
            Evidence("update_ratio", r.largest, LOW), Evidence("overshoot", r.early_overshoot),
            Evidence("loss", r.level), Evidence("loss_start", r.start)))  # fmt: skip


def schedule(r: Reading) -> Iterator[Claim]:
    """A rate that has all but ended long before the training has."""
    lrs = r.lrs[np.isfinite(r.lrs)]
    if len(lrs) < 20 or lrs.max() <= 0:
        return
    top = float(lrs.max())
    low = lrs < 0.01 * top
    tail = 0
    for small in low[::-1]:
        if not small:
            break
        tail += 1
    if tail > 0.4 * len(lrs) and int(lrs.argmax()) < len(lrs) - tail:
        first = int(r.at[len(r.at) - tail]) if tail < len(r.at) else 0
        severity = "warning" if r.now < 0.9 else "info"
        yield Claim("schedule-too-fast", severity, (Evidence("lr", float(lrs[-1])), Evidence("lr_peak", top),
                    Evidence("steps", tail)), first_step=first, certain=True)  # fmt: skip


def clipping(r: Reading) -> Iterator[Claim]:
    """Clipping sets the rate: nearly every gradient is made much smaller."""
    clips = r.recent("clip", 0.8)
    if len(clips) < 3 or r.facts.get("normalised") or r.now > 0.6 or r.largest > 0.015:
        return
    factor = median(clips)
    if factor < 0.1 and float(np.quantile(clips, 0.9)) < 0.5:
        yield Claim("clip-too-tight", "warning", (Evidence("clip_factor", factor, 0.1),))


def warmup(r: Reading) -> Iterator[Claim]:
    """The loss leaps up in the first steps, at a rate that is fine later."""
    lrs = r.lrs[np.isfinite(r.lrs)]
    if r.steps < 30 or not len(lrs) or lrs[0] < 0.5 * lrs.max() or seen.non_finite(r) or r.now < 0.1:
        return
    first = r.finite[: max(8, len(r.finite) // 16)]
    start, peak = float(r.finite[0]), float(first.max())
    if r.facts.get("normalised") and int((first > 1.1 * max(start, r.reference)).sum()) >= 2:
        evidence = (Evidence("loss_peak", peak), Evidence("loss_start", start), Evidence("update_ratio", r.largest))
        if peak > 2 * max(start, r.reference) and r.now < 0.5 and r.largest > HIGH / 2:
            yield Claim("lr-too-high", "warning", evidence)
        elif peak > 2 * max(start, r.reference) and r.largest > 1:
            yield Claim("lr-too-high", "info", evidence)
        yield Claim("no-warmup", "info", evidence)


def unsuited(r: Reading) -> Iterator[Claim]:
    """Plain steps along the gradient where layers' gradients differ by orders of magnitude."""
    if r.facts.get("normalised") or r.steps < 50 or r.now > 0.3 or not r.looks or r.largest > HIGH or seen.falling(r):
        return
    with np.errstate(all="ignore"):
        ratios = np.array([(look.update / look.weight)[r.matrices] for look in r.late()])
        each = np.median(ratios, axis=0) if len(ratios) else np.zeros(0)
    each = each[np.isfinite(each) & (each > 0)]
    spread = float(each.max() / each.min()) if len(each) > 2 else 1.0
    plain = r.facts.get("momentum") == 0.0 and r.now < 0.3 and r.largest < HIGH / 10
    if (spread > SPREAD or plain) and r.depth > seen.DEPTH:
        yield Claim("optimizer-unsuited", "warning", (Evidence("ratio_spread", spread, SPREAD),))


def slow_kind(r: Reading) -> Iterator[Claim]:
    """Plain steps, or ever shorter ones, on a loss that still falls at the end."""
    plain = r.facts.get("momentum") == 0.0 and not r.facts.get("normalised")
    if (plain or r.facts.get("accumulating")) and r.over and r.steps >= 50 and seen.falling(r) and r.now < 0.95:
        yield Claim("optimizer-unsuited", "info", (Evidence("loss_fall", r.slope), Evidence("agreement", r.agreement)),
                    symptom="slow-convergence")  # fmt: skip


def batch_size(r: Reading) -> Iterator[Claim]:
    """Batches so small that steps are noise, or so large that there are hardly any steps."""
    if 0 < r.data_batch <= SMALL_BATCH and r.steps >= 50 and r.now < 0.7 and not r.largest < LOW:
        severity = "warning" if r.data_batch <= 2 and r.now < 0.2 else "info"
        yield Claim("batch-too-small", severity, (Evidence("batch_size", r.data_batch, SMALL_BATCH),
                    Evidence("agreement", r.agreement), Evidence("loss", r.level)))  # fmt: skip
    steps_an_epoch = math.inf if r.facts.get("second_order") else r.facts.get("epoch", math.inf) - 1
    if steps_an_epoch <= 4 and r.data_batch >= 128 and r.over and r.now < 0.3 and r.agreement > 0.8 and r.steps < 500:
        yield Claim("batch-too-large", "warning", (Evidence("batch_size", r.data_batch), Evidence("steps_an_epoch",
                    steps_an_epoch, 4), Evidence("agreement", r.agreement)))  # fmt: skip


def regularised(r: Reading) -> Iterator[Claim]:
    """Weight decay or dropout that outweighs the loss."""
    penalty = float(r.facts.get("beside", 0.0))
    if penalty > PENALTY and r.steps >= 10:
        yield Claim("over-regularised", "info", (Evidence("penalty_share", penalty, PENALTY),))
    if r.steps < 10 or r.now > 0.6:
        return
    decay, early = _decay(r, r.late()), _decay(r, r.looks[:4])  # not only since the weights have grown
    if (decay > DECAY and early > DECAY / 3) or (early > 0.5 and decay > DECAY / 2):
        yield Claim("over-regularised", "warning", (Evidence("decay_share", decay, DECAY),))
    elif r.facts.get("dropout", 0.0) > DROPOUT and r.now < 0.4:
        yield Claim("over-regularised", "warning", (Evidence("dropout", r.facts["dropout"], DROPOUT),))


def _decay(r: Reading, looks: list[Look]) -> float:
    """How large weight decay is beside the gradient (or, where it is decoupled, beside the update)."""
    decay = float(r.facts.get("weight_decay", 0.0))
    late = [look for look in looks if np.isfinite(look.grad).all()]
    if not decay or not late:
        return 0.0
    lrs = dict(zip(r.at.astype(int).tolist(), r.lrs.tolist(), strict=True))
    shares: list[float] = []
    for look in late:
        used = r.matrices & (look.grad > 0)
        weight, other = look.weight[used], (look.update if r.facts.get("decoupled") else look.grad)[used]
        part = weight * decay * (lrs.get(look.step, 0.0) if r.facts.get("decoupled") else 1.0)
        shares.append(median(part / np.maximum(part + other, 1e-300)))
    return median(shares)


DETECTORS = (schedule, clipping, regularised, warmup, too_high, beyond, too_low, unsuited, slow_kind, batch_size)
