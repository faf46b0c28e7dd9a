"""One optimizer under watch: whether its gradients are its own, and whether it steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from surefoot.optim import Optimizer as Ours
from surefoot.watch.picks import local, spread
from surefoot.watch.signals import Counts

SENTINELS = 3  # parameters by which gradients are judged
FOREACH = 64  # tensors whose norms are worked out in the time of one step that may be looked at


class Tracked:
    """An optimizer, and some of its parameters by which it is judged when backward begins.

    steps: how many it has taken
    accumulated: whether a gradient has come since its last step; stale: whether it came on top of an older one
    idle: whether backward has begun since
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        trainable = [p for p in self.params if p.requires_grad and p.is_leaf]
        small = sorted(trainable, key=lambda p: local(p).numel() > 4096)  # stable: small ones first
        count = sum(local(p).numel() <= 4096 for p in small) or len(small)
        self.sentinels = spread(small[:count], SENTINELS)
        self.steps = 0
        self.accumulated = self.stale = self.idle = False
        self.own = False  # whether backward has ever brought a gradient; else somebody puts them there
        self.versions = self._versions()
        self.ours = isinstance(optimizer, Ours)
        self._handles: list[RemovableHandle] = []

    def attach(self, reached: Any) -> None:
        """From now on see when a gradient comes."""

        def came(p: Tensor) -> None:
            self.accumulated = self.own = True
            reached()

        learn = [p for p in self.sentinels if p.requires_grad]  # they may have been frozen since
        self._handles = [p.register_post_accumulate_grad_hook(came) for p in learn]
        self.versions = self._versions()

    def detach(self) -> None:
        """See no more, but count steps."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def begins(self, counts: Counts, step: int, scaled: bool) -> None:
        """A backward pass begins.

        Args:
            scaled: whether a loss scaler is at work, which leaves steps out
        """
        held = any(p.grad is not None and _any(p.grad) for p in self.sentinels)
        if self.accumulated and not held:
            counts.add("skipped" if scaled else "thrown", step)
        elif held and not self.accumulated and self.steps and self.own:
            self.stale = True
        if not held:
            self.accumulated = self.stale = False
        versions = self._versions()
        if self.idle and versions != self.versions:
            counts.add("foreign", step)
        self.idle, self.versions = True, versions

    def stepped(self) -> None:
        """It has taken a step."""
        self.steps += 1
        if self._handles:
            self.accumulated = self.stale = self.idle = False
            self.versions = self._versions()

    @torch.no_grad()
    def grad_norm(self) -> Tensor | None:
        """The norm of the gradients as they are now; None where there is none."""
        grads = [local(p.grad) for p in self.params if p.grad is not None]
        grads = [g.coalesce().values() if g.layout == torch.sparse_coo else g for g in grads]
        if not grads:
            return None
        return torch.stack([n.float() for n in torch._foreach_norm(grads)]).square().sum().sqrt()  # pyright: ignore

    def _versions(self) -> list[int]:
        return [local(p)._version for p in self.sentinels]


def _any(grad: Tensor) -> bool:
    g = local(grad)
    return bool((g.coalesce().values() if g.layout == torch.sparse_coo else g).any())
