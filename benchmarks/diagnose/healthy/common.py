"""What the programs share: batches in random order, and the loss of a model outside the watched time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def batches(*tensors: Tensor, size: int, epochs: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """Every row once an epoch, in an order drawn anew; rows that fill no batch are left for another epoch."""
    for _ in range(epochs):
        order = torch.randperm(len(tensors[0]))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield tuple(tensor[rows] for tensor in tensors)


@torch.no_grad()
def loss_of(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor) -> float:
    """The loss in evaluation mode; every module's mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = criterion(model(inputs), targets).item()
    for module, mode in modes:
        module.training = mode
    return loss


def entropy(labels: Tensor) -> float:
    """The cross-entropy of guessing by the labels' frequencies, in nats."""
    share = labels.flatten().bincount().double()
    share = share[share > 0] / share.sum()
    return float(-(share * share.log()).sum())


def binary_entropy(labels: Tensor) -> float:
    """The binary cross-entropy of guessing each column by its own frequency, in nats."""
    share = labels.double().reshape(len(labels), -1).mean(0).clamp(1e-9, 1 - 1e-9)
    return float(-(share * share.log() + (1 - share) * (1 - share).log()).mean())


def variance(targets: Tensor) -> float:
    """The mean squared error of guessing each column's mean."""
    return float((targets - targets.mean(0)).square().mean())


def warmed_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """The factor on the rate at a step: up in a line over `warmup` steps, then down a half cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))

    return factor
