"""The loss of a model that has learnt nothing but how often each target comes."""

from __future__ import annotations

import math

import numpy as np

from surefoot.diagnose.checks.losses import BCE_LOGITS, CROSS_ENTROPY, NLL, REGRESSION
from surefoot.watch.signals import Signals

SQUARED, ABSOLUTE, *HUBER = REGRESSION


def base_rate(signals: Signals) -> float:
    """The loss of a model that knows only how often each target comes: the entropy of the classes, the variance of
    numbers under squared error, that of a normal distribution under absolute error; NaN where it is unknown."""
    kind, data = signals.facts.get("loss_kind", ""), signals.batches.train
    if signals.facts.get("weighted"):  # whatever the classes weigh: that of equal probabilities
        return blank_loss(signals) if kind == CROSS_ENTROPY else math.nan
    scale = float(signals.facts.get("loss_items", 1.0))  # of a summed loss: how many terms
    if kind in (CROSS_ENTROPY, NLL) and data.classes:
        ignored = signals.facts.get("ignore_index", -100)
        counts = np.array([n for value, n in data.classes.items() if value != ignored], float)
        shares = counts / counts.sum() if counts.sum() else counts
        return float(-(shares * np.log(shares)).sum()) * scale
    if data.kind != "numbers" or not data.targets.count:
        return math.nan
    mean, std = data.targets.mean, data.targets.std
    if kind.startswith("BCE") and data.targets.low >= 0 and data.targets.high <= 1:
        share = np.clip(mean, 1e-12, 1 - 1e-12)
        return float(np.mean(-share * np.log(share) - (1 - share) * np.log(1 - share))) * scale
    if kind == SQUARED:
        return float(np.mean(std**2)) * scale
    if kind in HUBER:  # squares of what is below 1, sizes of what is above
        return float(np.mean(np.minimum(std**2 / 2, std * math.sqrt(2 / math.pi)))) * scale
    if kind == ABSOLUTE:
        return float(np.mean(std)) * math.sqrt(2 / math.pi) * scale
    return math.nan


def blank_loss(signals: Signals) -> float:
    """The loss of outputs that are all 0; NaN where it is unknown."""
    kind, targets = signals.facts.get("loss_kind", ""), signals.batches.train.targets
    if signals.facts.get("weighted") and kind != CROSS_ENTROPY:
        return math.nan
    scale = float(signals.facts.get("loss_items", 1.0))
    if kind == CROSS_ENTROPY and signals.facts.get("outputs", 0) > 1:
        return math.log(signals.facts["outputs"]) * scale
    if kind == BCE_LOGITS:
        return math.log(2) * scale
    if not targets.count:
        return math.nan
    squares = targets.mean**2 + targets.std**2
    sizes = np.sqrt(targets.mean**2 + targets.std**2 * 2 / math.pi)  # of normal distributions, nearly
    found = {
        SQUARED: squares,
        ABSOLUTE: sizes,
        **dict.fromkeys(HUBER, np.minimum(squares / 2, sizes)),
    }
    return float(np.mean(found[kind])) * scale if kind in found else math.nan
