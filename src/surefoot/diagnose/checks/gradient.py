"""What a backward pass reaches, and how the loss counts items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.diagnose.checks.found import Found, some
from surefoot.diagnose.knowledge import sentence


def without_gradient(model: nn.Module, ignore: tuple[str, ...] = ()) -> list[Found]:
    """Trainable parameters that a backward pass has not reached: unused, detached, or wrapped in no_grad.

    To be asked after a backward pass that began with no gradients. One pass may leave out what another uses (experts,
    heads of other tasks): ask after each.

    Args:
        ignore: names of parameters that were reached before
    """
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    names = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None and name not in ignore]
    if not names:
        return []
    text = sentence("no-gradient", names=some(names))
    evidence = {"without_gradient": len(names), "trainable": len(trainable)}
    return [Found("no-gradient", text, tuple(names), evidence)]


@torch.no_grad()
def summed(outputs: Any, targets: Any, loss: Callable[[Any, Any], Any] | None) -> list[Found]:
    """A loss that is summed over the batch: that of the whole is the sum of its halves', not their mean.

    A loss that returns (sum, count) says so itself, and is no fault.
    """
    if loss is None or not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return []
    n = len(outputs) if outputs.ndim else 0
    if n < 4 or not targets.ndim or len(targets) != n:
        return []
    half = n // 2
    values = [loss(outputs.detach()[part], targets[part]) for part in (slice(None), slice(half), slice(half, None))]
    if not all(isinstance(value, Tensor) and value.numel() == 1 for value in values):
        return []
    whole, first, second = (float(value) for value in values)
    mean = (half * first + (n - half) * second) / n
    if (
        not abs(whole) > 1e-12
        or abs(whole - (first + second)) > 1e-4 * abs(whole)
        or abs(whole - mean) < abs(whole) / 4
    ):
        return []
    text = sentence("summed-loss", items=n)
    return [Found("loss-sum", text, (), {"loss_whole": whole, "loss_halves": (first, second), "batch_size": n})]
