"""What is wrong with the data: order, labels, batches, scales, validation that differs from training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from surefoot.diagnose.checks.losses import REGRESSION
from surefoot.diagnose.detectors.claim import Claim, in_words
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.knowledge import sentence
from surefoot.diagnose.reading import Reading, median
from surefoot.watch.batches import Moments
from surefoot.watch.picks import Floats

ENOUGH = 12  # batches
ALONE = ((), (1,))  # shapes of an item's target that is one number
LABEL_GAP = 0.15  # total variation between two histograms of labels
APART = 2.0  # times the highest jump that is no spike
STEADY = 0.3  # update / weight beyond which spikes may be the step size's
SHIFT, STRETCH = 1.0, 3.0  # standard deviations, and ratios of them, between training and validation


def labels_constant(r: Reading) -> Iterator[Claim]:
    """One value only in all targets."""
    data = r.signals.batches.train
    items = sum(size for size, _ in data.batches.items)
    if len(data.batches) < 3 or items < 16 or not r.seen_all:
        return
    one_class = data.kind == "classes" and len(data.classes) == 1
    one_value = data.kind == "numbers" and data.targets.count > 1 and data.targets.low == data.targets.high
    if one_class or one_value:
        value = next(iter(data.classes)) if one_class else data.targets.low
        yield Claim(
            "labels-constant", "critical", (Evidence("target_low", value), Evidence("target_high", value)), certain=True
        )


def data_order(r: Reading) -> Iterator[Claim]:
    """Targets differ from batch to batch by far more than shuffling would make them."""
    found = between_batches(r)
    if found is None:
        return
    share, limit = found
    if share > limit:
        yield Claim("data-order", "warning", (Evidence("order_share", share, limit),), certain=True)


def between_batches(r: Reading) -> tuple[float, float] | None:
    """The share of the targets' variance that lies between batches, and what shuffling would hardly exceed."""
    data = r.signals.batches.train
    rows = data.batches.items
    per_item = math.prod(data.shape) if data.kind == "classes" else 1
    if len(rows) < ENOUGH or (data.kind == "classes" and len(data.classes) < 2):
        return None
    keys = sorted({key for _, shares in rows for key in shares})[:32]
    table: Floats = np.array([[shares.get(key, 0.0) for key in keys] for _, shares in rows])
    sizes = np.array([size for size, _ in rows])
    if median(sizes) < 4 or per_item > 1:
        return None
    if data.kind == "classes":
        mean = np.array([data.classes.get(key, 0) for key in keys], float) / max(sum(data.classes.values()), 1)
        total = float((mean * (1 - mean)).sum())
    else:
        total = float(np.mean(data.targets.std**2))
        table = table[:, :1] if np.size(data.targets.std) == 1 else table
    variances: Floats = np.var(table, axis=0)
    between = float(variances.mean()) if data.kind != "classes" else float(variances.sum())
    if total <= 0:
        return None
    expected = 1 / median(sizes)
    return between / total, min(0.9, max(0.35, 6 * expected))


def bad_batch(r: Reading) -> Iterator[Claim]:
    """Single steps whose loss is as bad as if nothing had been learnt, in a training that learns."""
    found = r.spikes
    data = r.signals.batches.train
    meant = r.facts.get("loss_kind") in REGRESSION[1:]  # a loss that does not mind outliers in its targets
    odd = sum(m.odd for m in (data.inputs.values() if meant else data.moments().values()))
    found = found or [int(step) - 1 for step in r.facts.get("leaps", ()) if odd and 0 < step <= len(r.losses)]
    if not 1 <= len(found) <= 0.06 * len(r.losses) or r.data_batch < 4:
        return
    if not odd and (r.now < 0.2 or r.largest > STEADY or not r.apart > APART):  # chance or the rate may be to blame
        return
    if r.facts.get("epoch", math.inf) <= 2:  # each batch is all the data
        return
    height = float(np.nanmedian(r.losses[found]) / max(abs(r.level), 1e-12))
    steps = [int(r.at[i]) for i in found]
    yield Claim(
        "bad-batch",
        "warning" if odd else "info",  # nothing but the height of the loss speaks for it
        (Evidence("spikes", len(found)), Evidence("spike_height", height), Evidence("odd_batches", odd)),
        tuple(f"step {s}" for s in steps[:8]),
        steps[0],
        symptom="loss-spike",
        certain=odd > 0,
    )


def broken_inputs(r: Reading) -> Iterator[Claim]:
    """NaN or infinity in the inputs, and losses that are none."""
    broken = {place: m.broken for place, m in r.signals.batches.train.inputs.items() if m.broken}
    if r.signals.batches.train.targets.broken:
        broken["targets"] = r.signals.batches.train.targets.broken
    if broken and r.counts.broken_losses:
        yield Claim(
            "non-finite-input",
            "critical",
            (Evidence("non_finite", sum(broken.values())),),
            tuple(broken),
            max(r.counts.first["broken_losses"] - 1, 0),
            symptom="non-finite",
            certain=True,
        )


def train_val(r: Reading) -> Iterator[Claim]:
    """Inputs or targets of validation that are scaled or labelled otherwise than those of training."""
    train, val = r.signals.batches.train, r.signals.batches.val
    apart = [v.loss for v in r.signals.validations.items[-3:]]
    seen = "overfitting" if apart and median(apart) > 1.3 * abs(r.level) else "silent"
    for place, own in train.inputs.items():
        other = val.inputs.get(place)
        if other is None:
            continue
        shift, stretch = differs(own, other)
        if shift > SHIFT or stretch > STRETCH:
            yield Claim(
                "train-val-mismatch",
                "warning",
                (Evidence("shift", shift, SHIFT), Evidence("stretch", stretch, STRETCH)),
                (f"inputs {place}".strip(),),
                symptom=seen,
                certain=True,
            )
            return
    if train.kind == "numbers" and val.kind == "numbers" and train.targets.count and val.targets.count:
        shift, stretch = differs(train.targets, val.targets)
        if shift > SHIFT or stretch > STRETCH:
            yield Claim(
                "train-val-mismatch",
                "warning",
                (Evidence("shift", shift, SHIFT), Evidence("stretch", stretch, STRETCH)),
                ("targets",),
                symptom=seen,
                certain=True,
            )
    elif train.kind == "classes" and val.kind == "classes" and sum(val.classes.values()) >= 64 and r.seen_all:
        new = sum(n for value, n in val.classes.items() if value not in train.classes)
        share = new / sum(val.classes.values())
        ours, theirs = sum(train.classes.values()), sum(val.classes.values())
        every = train.classes.keys() | val.classes.keys()
        gap = sum(abs(train.classes.get(c, 0) / ours - val.classes.get(c, 0) / theirs) for c in every) / 2
        chance = 3 * (len(every) / min(ours, theirs)) ** 0.5  # what two samples of one source may differ by
        enough = ours >= 20 * len(every)  # else rare classes are new by chance
        if (share > 0.02 and enough and len(train.classes) < 100) or (gap > max(LABEL_GAP, chance) and len(every) < 50):
            yield Claim(
                "train-val-mismatch",
                "warning",
                (Evidence("label_gap", max(gap, share), LABEL_GAP),),
                ("targets",),
                symptom=seen,
                certain=True,
            )


def differs(own: Moments, other: Moments) -> tuple[float, float]:
    """By how many standard deviations the means of two data sets lie apart, and by what factor their spreads differ;
    medians over the features."""
    if np.size(own.mean) != np.size(other.mean) or min(own.count, other.count) < 16:
        return 0.0, 1.0
    use = own.std > 1e-6 * max(float(np.max(np.abs(own.mean))), 1e-12)
    if not bool(use.any()):
        return 0.0, 1.0
    scale = np.sqrt(own.std[use] ** 2 + 1e-12)
    shift = median(np.abs(own.mean[use] - other.mean[use]) / scale)
    ratio = np.maximum(other.std[use], 1e-12) / scale
    return shift, float(np.exp(np.abs(median(np.log(ratio)))))


def imbalance(r: Reading) -> Iterator[Claim]:
    """One class rules, and the loss is what knowing that alone gives."""
    data = r.signals.batches.train
    total = sum(data.classes.values())
    if data.kind == "classes" and total >= 64 and len(data.classes) > 1:
        share = max(data.classes.values()) / total
    elif data.kind == "numbers" and data.whole and data.targets.low == 0 and data.targets.high == 1:
        mean = float(np.mean(data.targets.mean))
        share = max(mean, 1 - mean)
    else:
        return
    if share > 0.85 and r.steps >= 30 and r.now < 0.7:
        yield Claim(
            "class-imbalance",
            "warning" if r.now < (0.25 if share < 0.92 else 0.4) and not r.facts.get("weighted") else "info",
            (Evidence("class_share", share, 0.85), Evidence("loss", r.level), Evidence("base_rate", r.base)),
            symptom="silent" if r.level < 0.5 * r.start else "",
        )


def numbered_classes(r: Reading) -> Iterator[Claim]:
    """A regression on whole numbers from 0 on, few of them and all of them common: they may be names of classes."""
    data = r.signals.batches.train
    if (
        r.facts.get("loss_kind") not in REGRESSION
        or data.kind != "numbers"
        or not data.whole
        or data.shape not in ALONE
    ):
        return
    values, low, high = data.targets, data.targets.low, data.targets.high
    flat = float(np.mean(values.std)) > 0.22 * (high - low)  # of a uniform distribution 0.29
    if low == 0 and high == 1 and values.count >= 32 and r.facts["loss_kind"] == REGRESSION[1]:
        yield Claim("loss-mismatch", "warning", (Evidence("target_low", low), Evidence("target_high", high)),
                    certain=True, details=in_words(sentence("bits-by-absolute-error")))  # fmt: skip
    if low == 0 and 3 <= high <= 20 and flat and values.count >= 64:
        yield Claim("loss-mismatch", "info", (Evidence("target_low", low), Evidence("target_high", high)))


DETECTORS = (numbered_classes, broken_inputs, labels_constant, data_order, train_val, bad_batch, imbalance)
