"""Lookahead: slow weights that follow an optimizer's, and to which these return."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from surefoot.engine import gpu
from surefoot.engine.shards import local
from surefoot.engine.states import MASTER
from surefoot.errors import UserError
from surefoot.optim.averaging import copy
from surefoot.optim.backward import refuse_steps_in_backward
from surefoot.optim.loading import LOOKAHEAD, SLOW
from surefoot.optim.optimizer import Optimizer
from surefoot.optim.schedule_free import ScheduleFree

many: Any = torch  # its operations on lists of tensors have no public names


class Lookahead:
    """Lets an optimizer go k steps ahead, moves slow weights a part of the way after it, and puts it back to them.

        slow = slow + alpha * (p - slow)        after every k steps
        p = slow

    It listens to an optimizer of surefoot, torch or anybody else, whose loop stays as it is: `optimizer.step()`. A step
    that was skipped does not count. Schedules, `ema` and `optimizer.last` know of the optimizer's own steps alone.

    The slow weights are in the optimizer's state and the count of steps in its groups, so `optimizer.state_dict()`
    holds both and training goes on from it to the last bit. They start where the parameters are before the first step.

    Args:
        optimizer: what takes the steps
        k: how many steps the optimizer takes before it is put back
        alpha: how far the slow weights follow: above 0, up to 1, which is the optimizer alone

    Raises:
        UserError: for k or alpha out of range; for an optimizer that has a Lookahead, or that is Schedule-Free; at a
            step: after `step_in_backward`, in a CUDA graph, and inside `averaged()`

    Source: Zhang et al. 2019, "Lookahead optimizer: k steps forward, 1 step back" (arXiv:1907.08610), algorithm 1; the
    optimizer keeps its momentum, as in the authors' code unless told otherwise.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> opt = sf.optim.SGD([w], lr=0.25)
    >>> lookahead = sf.optim.Lookahead(opt, k=2)
    >>> w.grad = torch.tensor([1.0])
    >>> for _ in range(4): opt.step(); print(w.item())
    0.75
    0.75
    0.5
    0.5
    """

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"Lookahead: it follows a torch.optim.Optimizer, not a {type(optimizer).__name__}")
        if isinstance(optimizer, ScheduleFree):
            raise UserError(f"Lookahead: {type(optimizer).__name__} averages its own steps: use it alone")
        if type(k) is not int or k < 1:
            raise UserError(f"Lookahead: k={k!r}: it must be a whole number, 1 or more")
        if isinstance(alpha, bool) or not (isinstance(alpha, int | float) and 0 < alpha <= 1):  # pyright: ignore
            raise UserError(f"Lookahead: alpha={alpha!r}: it must be a number above 0, up to 1")
        hooks = optimizer._optimizer_step_post_hooks.values()  # pyright: ignore[reportPrivateUsage]
        if any(isinstance(getattr(hook, "__self__", None), Lookahead) for hook in hooks):
            raise UserError("Lookahead: the optimizer has one already: call its remove() first")
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self._starts: dict[Tensor, Tensor] = {}  # slow weights of parameters that have no state yet
        self._looked = 0  # among how many parameters those without slow weights were last looked for
        self._swapped = False
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
            optimizer.register_state_dict_pre_hook(self._refuse_swapped),
            optimizer.register_load_state_dict_post_hook(self._loaded),
        ]

    def __repr__(self) -> str:
        return f"Lookahead({type(self.optimizer).__name__}, k={self.k}, alpha={self.alpha})"

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken, those of the runs before this one included."""
        return max(group.get(LOOKAHEAD, 0) for group in self.optimizer.param_groups)

    @contextmanager
    def averaged(self) -> Generator[None, None, None]:
        """Put the slow weights in the place of the parameters, to evaluate or to keep them, and at the end these back.

        Batch norm's statistics are those of the parameters: `sf.optim.refresh_batch_norm` measures them anew.

        >>> import torch, surefoot as sf
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt = sf.optim.SGD([w], lr=0.25)
        >>> lookahead = sf.optim.Lookahead(opt)
        >>> w.grad = torch.tensor([1.0]); opt.step()
        >>> with lookahead.averaged(): print(w.item())
        1.0
        >>> w.item()
        0.75
        """
        self._refuse_swapped()
        pairs = [(p, kept[SLOW]) for p, kept in self._states() if SLOW in kept]
        own = [p.detach().clone() for p, _ in pairs]
        self._swapped = True
        try:
            copy([slow for _, slow in pairs], [p for p, _ in pairs])
            yield
        finally:
            copy(own, [p for p, _ in pairs])
            self._swapped = False

    def remove(self) -> None:
        """Leave the parameters where they are and the optimizer alone; the slow weights are given up."""
        self._refuse_swapped()
        for hook in self._hooks:
            hook.remove()
        for _, kept in self._states():
            kept.pop(SLOW, None)
        for group in self.optimizer.param_groups:
            group.pop(LOOKAHEAD, None)
        self._starts.clear()

    def _before(self, *_: Any) -> None:
        """Remember where parameters start from that have not been moved yet."""
        self._refuse_swapped()
        refuse_steps_in_backward(self.optimizer, "Lookahead")
        gpu.refuse_capture("Lookahead does more in every k-th step than in the others")
        number = sum(len(group["params"]) for group in self.optimizer.param_groups)
        if number == self._looked:
            return
        self._looked = number
        with torch.inference_mode(False), torch.no_grad():
            for p, kept in self._states():
                if p.requires_grad and p not in self._starts and SLOW not in kept:
                    held = self._held(p, kept)
                    if held is not p:  # a master copy gives way where somebody has written to its parameter
                        held = torch.where(held.to(p.dtype) == p, held, p)
                    self._starts[p] = held.detach().clone()

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        """Count the step, and let slow weights and parameters meet after every k-th."""
        if _skipped(self.optimizer):
            return
        for p in list(self._starts):
            # only now: torch's optimizers take a parameter that has any state for one that has its whole state
            if p.grad is not None or self.optimizer.state.get(p):
                self.optimizer.state[p][SLOW] = self._starts.pop(p)
        steps = self.steps + 1
        for group in self.optimizer.param_groups:
            group[LOOKAHEAD] = steps
        if steps % self.k == 0:
            self._meet()
            self._looked = 0  # others may have been thawed

    def _meet(self) -> None:
        """Move the slow weights, and the parameters to them. Of a sharded parameter each part is moved by itself."""
        params: list[Tensor] = []
        fast: list[Tensor] = []
        slow: list[Tensor] = []
        for p, kept in self._states():
            if SLOW in kept:
                held = self._held(p, kept)
                kept[SLOW] = kept[SLOW].to(held.dtype)  # another one where master copies have come or gone
                params.append(local(p))
                fast.append(local(held))
                slow.append(local(kept[SLOW]))
        if slow:
            many._foreach_lerp_(slow, fast, self.alpha)
            many._foreach_copy_(fast, slow)
            many._foreach_copy_(params, slow)

    def _loaded(self, *_: Any) -> None:
        """What was loaded may have slow weights of its own, or none."""
        self._starts.clear()
        self._looked = 0

    def _states(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """The parameters and what is kept for each."""
        state = self.optimizer.state
        return ((p, state.get(p, {})) for group in self.optimizer.param_groups for p in group["params"])

    def _held(self, p: Tensor, kept: dict[str, Any]) -> Tensor:
        """What the optimizer moves: the parameter, or the master copy that it is rounded from."""
        ours = self.optimizer
        return kept.get(MASTER, p) if isinstance(ours, Optimizer) and ours.options.master_weights else p

    def _refuse_swapped(self, *_: Any) -> None:
        if self._swapped:
            raise UserError("the parameters hold the slow weights: leave `with lookahead.averaged()` first")


def _skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step moved nothing."""
    if isinstance(optimizer, Optimizer):
        return optimizer.last is not None and optimizer.last.skipped
    found = getattr(optimizer, "found_inf", None)  # GradScaler calls torch's fused optimizers all the same
    return found is not None and bool(found)
