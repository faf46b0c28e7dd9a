"""Validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.errors import UserError
from surefoot.optim.optimizer import is_number
from surefoot.task.task import Outcome, Task, described
from surefoot.train.distributed import Processes


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, batches: Iterable[Any], outcome_of: Callable[[Any], Outcome], processes: Processes
) -> dict[str, float]:
    """The loss and the metric over all the batches, each item with the same weight; the model's mode is as before.

    Returns:
        results by the names of the record, such as {"val/loss": 0.1, "val/accuracy": 0.98}
    """
    training = model.training
    model.eval()
    sums: defaultdict[str, Any] = defaultdict(float)
    counts: defaultdict[str, Any] = defaultdict(float)
    for batch in batches:
        outcome = outcome_of(batch)
        sums["val/loss"] += outcome.loss.double() * outcome.count
        counts["val/loss"] += outcome.count
        if task.metric is not None:
            total, count = measured(task, outcome)
            sums[task.score] += total
            counts[task.score] += count
    model.train(training)
    together = {name: processes.sums(sums[name], counts[name]) for name in sums}
    return {name: float(total / count) for name, (total, count) in together.items()}


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
