"""Averages of the parameters in the parameters' place: to evaluate at, and to keep."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from surefoot.engine.options import Options
from surefoot.engine.states import AVERAGE
from surefoot.errors import UserError


class Averaging(torch.optim.Optimizer):
    """What optimizers share that concerns averages of the parameters."""

    options: Options
    _swapped: bool

    @property
    def holds_averages(self) -> bool:
        """Whether the parameters hold averages of themselves now, which no step may start from."""
        return self._swapped

    @contextmanager
    def averaged(self) -> Generator[None, None, None]:
        """Put the averages of `ema` in the place of the parameters, and the parameters back at the end.

        >>> import torch, surefoot as sf
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> opt = sf.optim.SGD([w], lr=1.0, ema=0.75)
        >>> w.grad = torch.tensor([-4.0]); opt.step()
        >>> with opt.averaged(): print(w.item())
        1.0
        >>> w.item()
        4.0
        """
        if self.options.ema is None:
            raise UserError("averaged(): no averages are kept: build the optimizer with ema=0.999, say")
        self._refuse_swapped()
        pairs = [(p, kept[AVERAGE]) for p, kept in self.state.items() if AVERAGE in kept]
        self._swapped = True
        own = [p.detach().clone() for p, _ in pairs]
        try:
            copy([average for _, average in pairs], [p for p, _ in pairs])
            yield
        finally:
            copy(own, [p for p, _ in pairs])
            self._swapped = False

    def eval(self) -> None:
        """Make the parameters what is to be evaluated: they are, but with the Schedule-Free optimizers."""

    def train(self) -> None:
        """Make the parameters what is trained: they are, but with the Schedule-Free optimizers."""

    @contextmanager
    def evaluating(self) -> Generator[None, None, None]:
        """`eval()`, and at the end `train()`: evaluation and saving belong inside, whatever the optimizer."""
        inside = self.holds_averages
        try:
            self.eval()
            yield
        finally:
            if not inside:
                self.train()

    def refresh_batch_norm(
        self, model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None
    ) -> None:
        """Measure batch norm's running mean and variance anew, at the averages of the parameters.

        See `sf.optim.refresh_batch_norm`, which does so at whatever the parameters are.
        """
        with nullcontext() if self.holds_averages else self.averaged():
            refresh_batch_norm(model, batches, forward)

    def _refuse_swapped(self) -> None:
        if self._swapped:
            raise UserError("the parameters hold their averages: leave `with optimizer.averaged()` first")


def refresh_batch_norm(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None) -> None:
    """Measure batch norm's running mean and variance anew, at the parameters as they are now.

    Those that training leaves are of the parameters it goes through, not of averages of these. Some 50 batches will do.
    Random numbers, modes and all but these statistics are afterwards as they were.

    Args:
        model: whose batch norms these are
        batches: training batches, as the model takes them, or tuples that begin with what it takes
        forward: what passes a batch through the model, if that is not enough, as `lambda batch: model(**batch)`

    Source: Izmailov et al. 2018 (arXiv:1803.05407), section 3.2; as torch.optim.swa_utils.update_bn.

    >>> import torch, surefoot as sf
    >>> norm = torch.nn.BatchNorm1d(1)
    >>> sf.optim.refresh_batch_norm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    >>> norm.running_mean
    tensor([4.])
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    forward = forward or (lambda batch: model(_inputs(batch)))
    modes, momenta = {m: m.training for m in model.modules()}, [m.momentum for m in norms]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(sorted(devices, key=str)):
        try:
            model.train()
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
            for batch in batches:
                forward(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, mode in modes.items():
                module.training = mode


def copy(values: Iterable[Tensor], params: Iterable[Tensor]) -> None:
    """Write values into parameters."""
    with torch.no_grad():
        for value, p in zip(values, params, strict=True):
            p.copy_(value)


def _inputs(batch: Any) -> Any:
    """What a model takes of a batch."""
    return cast(Any, batch)[0] if isinstance(batch, tuple | list) else batch
