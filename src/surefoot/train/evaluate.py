"""Validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.errors import UserError
from surefoot.optim import Optimizer
from surefoot.optim.optimizer import is_number
from surefoot.task.task import Outcome, Task, described
from surefoot.train.data import Batches, to_device

REFRESHING = 50  # batches that batch norm's statistics are measured on


def refresh(task: Task, model: nn.Module, optimizer: Optimizer, data: Batches, device: torch.device) -> None:
    """Where the weights are not those that were trained but their average, measure batch norm's statistics at these."""

    def some() -> Iterator[Any]:
        for batch in islice(data.epoch(0), REFRESHING):
            yield to_device(batch, device)

    if optimizer.holds_averages:
        optimizer.refresh_batch_norm(model, some(), lambda batch: task.outcome(model, batch))


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
            total, count = measured(task, outcome)
            sums[task.score] += total
            counts[task.score] += count
    return {name: float(sums[name] / counts[name]) for name in sums}


def measured(task: Task, outcome: Outcome) -> tuple[Any, Any]:
    """The task's metric on one batch as (sum, count)."""
    assert task.metric is not None
    value = task.metric(outcome.outputs, outcome.targets)
    total, count = cast("tuple[Any, Any]", value if isinstance(value, tuple) and len(value) == 2 else (value, None))  # pyright: ignore[reportUnknownArgumentType]
    if not is_number(total) or not (count is None or is_number(count)):
        name = task.score.removeprefix("val/")
        raise UserError(f"the metric {name} must return a number, or (sum, count), not {described(value)}")
    total = total.double() if isinstance(total, Tensor) else total
    return (total * outcome.count, outcome.count) if count is None else (total, count)
