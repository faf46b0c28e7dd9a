"""A watch over a model whose parameters are, between steps, not those to use."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from surefoot.errors import UserError
from surefoot.optim.averaging import Averaging


class Guard:
    """What `ScheduleFree.guard` returns. `remove()` ends the watch."""

    def __init__(self, optimizer: Averaging, model: nn.Module) -> None:
        watched = weakref.ref(optimizer)
        self._handles = [
            model.register_forward_pre_hook(Hook(watched, refuse_evaluation)),
            model.register_state_dict_pre_hook(Hook(watched, refuse_saving)),
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class Hook:
    """A hook of a module that asks an optimizer whether the parameters are those to use.

    A copy of the module has none of its own: the optimizer does not move that.
    """

    def __init__(self, optimizer: Callable[[], Averaging | None], refuse: Callable[[nn.Module], None]) -> None:
        self._optimizer, self._refuse = optimizer, refuse

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self.away:
            self._refuse(module)

    @property
    def away(self) -> bool:
        """Whether the parameters are away from their averages."""
        optimizer = None if torch.compiler.is_compiling() else self._optimizer()
        return optimizer is not None and bool(optimizer.state) and not optimizer.holds_averages

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook(_nobody, self._refuse)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.away:
            refuse_saving()
        return getattr, (nullcontext(), "__exit__")  # does nothing, and can be loaded where there is no surefoot


def refuse_evaluation(module: nn.Module) -> None:
    """Refuse a forward pass that evaluates."""
    if not module.training and not torch.is_grad_enabled():
        raise UserError(
            "the model is evaluated at the weights that it is trained at, not at their average: evaluate inside "
            "`with optimizer.averaged():`"
        )


def refuse_saving(*_: object) -> None:
    """Refuse to save."""
    raise UserError(
        "the model would be saved with the weights that it is trained at, not with their average: save inside "
        "`with optimizer.averaged():`, and the optimizer's state_dict(), too: training can go on from there after "
        "optimizer.train()"
    )


def _nobody() -> None:
    return None
