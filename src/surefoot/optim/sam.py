"""Sharpness-aware minimisation: steps along the gradient at the worst point nearby."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UserError
from surefoot.optim.optimizer import is_number


class SAM:
    """Moves to the worst point within rho, takes the gradient there, and lets an optimizer step with it from here.

        e = rho * g / norm(g)                                       (SAM)
        e = rho * s ^ 2 * g / norm(s * g), s = |p| + eta            (ASAM)
        g = gradient at p + e

    with norms over all parameters. A step takes two forward and backward passes, so it needs a closure.

    Args:
        optimizer: what takes the step: any of torch or surefoot
        rho: how far to look; 0.05 for SAM, 0.5 and more for ASAM
        adaptive: look in shares of the weights (ASAM), which does not depend on their scale
        eta: added to the weights' sizes where it is adaptive

    Raises:
        UserError: for rho or eta out of range; at a step, without a closure

    The first pass updates batch norm's running statistics and so does the second, as with any other forward pass.

    Source: SAM: Foret et al. 2020 (arXiv:2010.01412), eq. 2 and algorithm 1. ASAM: Kwon et al. 2021 (arXiv:2102.11600),
    algorithm 1.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> sam = sf.optim.SAM(sf.optim.SGD([w], lr=0.25), rho=0.5)
    >>> def closure():
    ...     sam.optimizer.zero_grad()
    ...     loss = (w ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> sam.step(closure).item(), w.item()                  # the gradient at 1.5 is 3
    (1.0, 0.25)
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rho: float = 0.05, adaptive: bool = False, eta: float = 0.01
    ) -> None:
        for name, value in (("rho", rho), ("eta", eta)):
            if not (is_number(value) and value >= 0):
                raise UserError(f"SAM: {name}={value!r}: it must be a number, 0 or more")
        self.optimizer, self.rho, self.adaptive, self.eta = optimizer, rho, adaptive, eta

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:
        """Take a step. Returns what the closure returned at the parameters themselves.

        Args:
            closure: clears the gradients, runs forward and backward, and returns the loss
        """
        if not callable(closure):  # pyright: ignore[reportUnnecessaryComparison]
            raise UserError("SAM: step needs a closure that clears the gradients, runs forward and backward")
        with torch.enable_grad():
            loss = closure()
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        own = [p.detach().clone() for p in params]
        self._look(params)
        try:
            with torch.enable_grad():
                closure()
        finally:  # the parameters come back bit for bit, whatever the closure did
            for p, value in zip(params, own, strict=True):
                p.copy_(value)
        self.optimizer.step()
        return loss

    def _look(self, params: list[Tensor]) -> None:
        """Move to the worst point."""
        sizes = [p.abs() + self.eta if self.adaptive else p.new_ones(()) for p in params]
        slopes = [size * p.grad.to_dense() for size, p in zip(sizes, params, strict=True) if p.grad is not None]
        if not slopes:
            return
        parts = [torch.linalg.vector_norm(slope.float()) for slope in slopes]  # pyright: ignore
        norm = torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts]))  # pyright: ignore
        share = torch.where(norm > 0, self.rho / norm, 0)  # pyright: ignore[reportUnknownArgumentType]
        for p, size, slope in zip(params, sizes, slopes, strict=True):
            p.add_(size * slope * share.to(p.device, p.dtype))
