"""What a watch cannot see, and why."""

from __future__ import annotations

import math

from torch import nn

from surefoot.diagnose.knowledge import sentence
from surefoot.watch.signals import Signals
from surefoot.watch.wiring import compiled

OF_LAYERS = ("dead-units", "saturated-units", "deep-exploding")
OF_OUTPUTS = (
    "output-activation", "output-range", "loss-mismatch", "shape-broadcast", "loss-sum", "labels-constant",
    "data-order", "class-imbalance", "target-unscaled",
)  # fmt: skip
OF_LOSS = ("lr-too-high", "lr-too-low", "bad-batch", "data-unlearnable", "too-little-capacity", "undertrained")
OF_VALIDATION = ("overtrained", "train-mode", "train-val-mismatch")


def blind(model: nn.Module, signals: Signals) -> dict[str, str]:
    """For each cause that could not be found, the reason, in English."""
    found: dict[str, str] = {}
    steps = signals.steps.items
    if compiled(model):
        found |= dict.fromkeys(OF_LAYERS, sentence("compiled")("en"))
    if steps and all(math.isnan(step.loss) for step in steps):
        found |= dict.fromkeys((*OF_OUTPUTS, *OF_LOSS), sentence("no-loss")("en"))
    if not signals.counts.validations:
        found |= dict.fromkeys(OF_VALIDATION, sentence("no-validation")("en"))
    return found
