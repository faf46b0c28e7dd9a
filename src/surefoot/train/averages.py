"""The weights that are to be used, where they are not those that are trained: averages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.optim import Optimizer


@contextmanager
def usable(
    model: nn.Module,
    optimizer: Optimizer,
    state: Callable[[], Any],
    batches: Callable[[], Iterable[Any]] | None,
    forward: Callable[[Any], Any],
) -> Generator[dict[str, Any]]:
    """While this context lasts, the model holds the weights that are to be used: to be evaluated, and to be saved.

    With Schedule-Free optimizers and with `ema` these are averages, at which batch norm's statistics are measured anew
    on the batches (of a stream, which gives none twice, they stay training's); at the end all is as it was. It gives
    what training goes on from beside the weights to be used:

    - optimizer: its state, which for Schedule-Free ones holds the trained weights
    - trained: with `ema` copies of the trained parameters and buffers
    """
    averaging = optimizer.options.ema is not None
    aside = {"optimizer": state(), "trained": copies(model)} if averaging else {}
    with optimizer.averaged() if averaging else nullcontext(), optimizer.evaluating():
        if optimizer.holds_averages and batches is not None:
            optimizer.refresh_batch_norm(model, batches(), forward)
        yield aside or {"optimizer": state(), "trained": {}}
    if averaging:
        put_back(model, aside["trained"])


def copies(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers."""
    return {name: t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}


@torch.no_grad()
def put_back(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Give a model what `copies` took."""
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        t.copy_(kept[name])
