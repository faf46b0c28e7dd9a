"""Sharpness-aware minimisation: an optimizer that steps along the gradient at the worst point nearby."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from surefoot.engine.rounding import HALVES
from surefoot.engine.shards import Split, local, sharded, split
from surefoot.errors import UserError
from surefoot.optim.averaging import copy
from surefoot.optim.backward import refuse_steps_in_backward

many: Any = torch  # its operations on lists of tensors have no public names


class SAM:
    """Looks for flat minima: lets an optimizer step along the gradient at the worst point within rho, not here.

        e = rho * g / norm(g)                                       SAM
        e = rho * s^2 * g / norm(s * g), s = |p| + eta              ASAM: adaptive=True
        g = the gradient at p + e

    with norms over all parameters. The optimizer then moves p, which is restored bit for bit. So a step is two forward
    and backward passes, and the closure is called twice:

        for x, y in batches:
            def closure():
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                return loss
            sam.step(closure)

    Where that is not enough (GradScaler, several batches a step), write the two passes out around `perturbed()`.

    Both passes go through batch norm, so its running statistics take in each batch twice, the second time at p + e; a
    pass with the batch norms' momentum at 0 leaves them alone. With DistributedDataParallel e is of the gradient over
    all processes. The norm is waited for on a GPU.

    Args:
        optimizer: what takes the step: of surefoot, torch or anybody else
        rho: how far the worst point may be; ASAM wants about ten times as much
        adaptive: measure how far by the size of each weight, so that scaling weights changes nothing (ASAM)
        eta: added to the sizes of weights, for those near zero

    Raises:
        UserError: for rho or eta out of range; at a step: without a closure, and after `step_in_backward`

    Source: SAM: Foret et al. 2020 (arXiv:2010.01412), eq. 2 and algorithm 1, p = 2. ASAM: Kwon et al. 2021
    (arXiv:2102.11600), eq. 9 with |w| + eta for all parameters; the authors' code takes 1 for biases.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> sam = sf.optim.SAM(sf.optim.SGD([w], lr=0.25), rho=0.5)
    >>> def closure():
    ...     sam.optimizer.zero_grad()
    ...     loss = (w ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> sam.step(closure).item(), w.item()          # the gradient at 1.5 is 3
    (1.0, 0.25)
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rho: float = 0.05, adaptive: bool = False, eta: float = 0.01
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
            found = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
            raise UserError(f"SAM: it takes an optimizer that is there, as SAM(SGD(params, lr=0.1)), not {found}")
        for name, value in (("rho", rho), ("eta", eta)):
            if not (isinstance(value, Real) and 0 <= value < math.inf):  # pyright: ignore
                raise UserError(f"SAM: {name}={value!r}: it must be a number, 0 or more")
        if not isinstance(adaptive, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"SAM: adaptive={adaptive!r}: it must be True or False")
        self.optimizer, self.rho, self.adaptive, self.eta = optimizer, rho, adaptive, eta

    def __repr__(self) -> str:
        return f"SAM({type(self.optimizer).__name__}, rho={self.rho}, adaptive={self.adaptive}, eta={self.eta})"

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take a step. Whatever the closure raises, the parameters are where they were.

        Args:
            closure: clears the gradients, passes the batch forward and backward, and returns the loss

        Returns:
            the loss at the parameters, before the step
        """
        if not callable(closure):  # pyright: ignore[reportUnnecessaryComparison]
            raise UserError("SAM: step(closure) needs a closure that clears the gradients, runs forward and backward")
        refuse_steps_in_backward(self.optimizer, "SAM")
        with torch.enable_grad():
            loss = closure()
        with self.perturbed(), torch.enable_grad():
            closure()
        self.optimizer.step()
        return loss

    @contextmanager
    def perturbed(self) -> Generator[None, None, None]:
        """Put the parameters at the worst point, going by their gradients, which are cleared; at the end put them back.

        So a step is `loss.backward()`, the same once more inside of this, then `optimizer.step()`. Where the norm of
        the gradient is zero or not finite, the parameters stay where they are.
        """
        refuse_steps_in_backward(self.optimizer, "SAM")
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        own = [p.detach().clone() for p in params]
        try:
            self._climb(params)
            self.optimizer.zero_grad()
            yield
        finally:
            copy(own, params)

    @torch.no_grad()
    def _climb(self, params: Sequence[Tensor]) -> None:
        """Move to the worst point. The part of a sharded parameter goes by its own gradient, and by the norm of all."""
        if not params:
            return
        moves, here = [_gradient(p) for p in params], [local(p) for p in params]
        sizes: Sequence[Tensor] = []
        if self.adaptive:
            sizes = many._foreach_add(many._foreach_abs(here), self.eta)
            moves = many._foreach_mul(moves, sizes)
        length = _norm(moves, [split(p) for p in params])
        if self.adaptive:
            moves = many._foreach_mul(moves, sizes)
        if 0 < length < math.inf:
            many._foreach_add_(here, moves, alpha=self.rho / length)


def _gradient(p: Tensor) -> Tensor:
    """A parameter's gradient; of a sharded one the part that belongs to the part of the parameter here."""
    grad = p.grad
    assert grad is not None
    if sharded(grad) and sharded(p) and grad.placements != p.placements:
        grad = grad.redistribute(placements=p.placements)
    here = local(grad).detach()
    here = here if here.layout == torch.strided else here.to_dense()
    return here.float() if here.dtype in HALVES else here  # rho / norm may be too small for half precision


def _norm(tensors: Sequence[Tensor], splits: Sequence[Split | None]) -> float:
    """The norm of all together, those that other processes have parts of included."""
    alike: dict[tuple[torch.device, torch.dtype, Split | None], list[Tensor]] = {}
    for t, over in zip(tensors, splits, strict=True):
        alike.setdefault((t.device, t.dtype, over), []).append(t)
    squares = 0.0
    for (_, _, over), each in alike.items():
        norms: list[float] = cast(Any, torch.stack(many._foreach_norm(each))).tolist()
        part = np.array([sum(norm * norm for norm in norms)])
        squares += float((part if over is None else over.total(part))[0])
    return math.sqrt(squares)
