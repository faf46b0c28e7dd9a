"""The loss of a model that has learnt nothing but how often each target comes."""

from __future__ import annotations

import math

import numpy as np

from surefoot.watch.signals import Signals


def base_rate(signals: Signals) -> float:
    """The loss of a model that knows only how often each target comes: the entropy of the classes, the variance of
    numbers under squared error, that of a normal distribution under absolute error; NaN where it is unknown."""
    kind, data = signals.facts.get("loss_kind", ""), signals.batches.train
    if signals.facts.get("weighted"):
        return math.nan
    scale = float(signals.facts.get("loss_items", 1.0))  # of a summed loss: how many terms
    if kind in ("cross-entropy", "negative log-likelihood") and data.classes:
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
    if kind == "squared error":
        return float(np.mean(std**2)) * scale
    if kind == "absolute error":
        return float(np.mean(std)) * math.sqrt(2 / math.pi) * scale
    return math.nan
