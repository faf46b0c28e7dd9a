"""Lookahead: weights that follow an optimizer slowly, and take it back to themselves."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from surefoot.errors import UserError
from surefoot.optim.loading import SLOW
from surefoot.optim.schedule_free import ScheduleFree

COUNT = "lookahead_step"  # in the first group: how many steps were taken


class Lookahead:
    """Every k steps, takes slow weights a share of the way to the optimizer's, and the optimizer back to them.

        slow = slow + alpha * (p - slow)        every k steps
        p = slow

    It listens to the optimizer, whose loop stays as it is; any optimizer of torch or surefoot will do. The slow weights
    and the count are in the optimizer's state, and so in its `state_dict`: make the Lookahead before you load one.

    Args:
        optimizer: what takes the fast steps; not one of the Schedule-Free, which average steps themselves
        k: how many of them
        alpha: the share

    Raises:
        UserError: for k or alpha out of range, or an optimizer that cannot be

    Source: Zhang et al. 2019, "Lookahead optimizer: k steps forward, 1 step back" (arXiv:1907.08610), algorithm 1.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> opt = sf.optim.SGD([w], lr=0.25)
    >>> lookahead = sf.optim.Lookahead(opt, k=2, alpha=0.5)
    >>> w.grad = torch.tensor([1.0])
    >>> for _ in range(4): opt.step(); print(w.item())
    0.75
    0.75
    0.5
    0.5
    """

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if type(k) is not int or k < 1:
            raise UserError(f"Lookahead: k={k!r}: it must be a whole number, 1 or more")
        if not (isinstance(alpha, int | float) and 0 <= alpha <= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"Lookahead: alpha={alpha!r}: it must be a number from 0 to 1")
        if isinstance(optimizer, ScheduleFree):
            raise UserError(f"Lookahead: {type(optimizer).__name__} averages its own steps: use it alone")
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self._before: RemovableHandle = optimizer.register_step_pre_hook(self._begin)
        self._after: RemovableHandle = optimizer.register_step_post_hook(self._step)

    def remove(self) -> None:
        """Leave the optimizer as it is now, and alone from here on."""
        self._before.remove()
        self._after.remove()

    @contextmanager
    def slow(self) -> Generator[None, None, None]:
        """Put the slow weights in the place of the parameters, to evaluate them, and the parameters back at the end."""
        pairs = [(p, kept[SLOW]) for p, kept in self.optimizer.state.items() if SLOW in kept]
        own = [p.detach().clone() for p, _ in pairs]
        with torch.no_grad():
            for p, slow in pairs:
                p.copy_(slow)
        try:
            yield
        finally:
            with torch.no_grad():
                for (p, _), value in zip(pairs, own, strict=True):
                    p.copy_(value)

    def _begin(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The slow weights start where the fast ones do."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and SLOW not in optimizer.state[p]:
                    optimizer.state[p][SLOW] = p.detach().clone(memory_format=torch.preserve_format)

    def _step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        report = getattr(optimizer, "last", None)
        if report is not None and report.skipped:
            return
        first = optimizer.param_groups[0]
        first[COUNT] = first.get(COUNT, 0) + 1
        if first[COUNT] % self.k:
            return
        pairs: list[tuple[Tensor, Tensor]] = [(p, kept[SLOW]) for p, kept in optimizer.state.items() if SLOW in kept]
        with torch.no_grad():
            for p, slow in pairs:
                slow.lerp_(p, self.alpha)
                p.copy_(slow)
