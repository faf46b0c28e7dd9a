"""Validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from surefoot.task.task import Task
from surefoot.train.data import to_device


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, batches: Iterable[Any], device: torch.device) -> dict[str, float]:
    """The loss and the metric over all the batches, each item with the same weight; leaves the model in eval mode.

    Returns:
        results by the names of the record, such as {"val/loss": 0.1, "val/accuracy": 0.98}
    """
    model.eval()
    sums: defaultdict[str, Any] = defaultdict(float)
    counts: defaultdict[str, Any] = defaultdict(float)
    for batch in batches:
        outcome = task.outcome(model, to_device(batch, device))
        sums["val/loss"] += outcome.loss.double() * outcome.count
        counts["val/loss"] += outcome.count
        if task.metric is not None:
            value: Any = task.metric(outcome.outputs, outcome.targets)
            exact = isinstance(value, tuple)
            sums[task.score] += value[0] if exact else value * outcome.count
            counts[task.score] += value[1] if exact else outcome.count
    return {name: float(sums[name] / counts[name]) for name in sums}
