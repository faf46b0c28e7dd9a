"""A closer look at one step: gradients, weights and updates before and after it, what enters the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surefoot.watch.due import Due
from surefoot.watch.layers import FIELDS, Layers
from surefoot.watch.picks import Floats, Picks, local
from surefoot.watch.signals import Look, Signals

RAW = 8  # tensors whose gradients are seen before they are clipped
NAN = float("nan")


class Glance:
    """Looks at some steps, and at the gradients of those that follow them.

    on: whether this step is looked at; wanted: whether its gradients are, for this look or the one before
    inner: whether layers within the model can be seen
    """

    def __init__(self, model: nn.Module, named: Sequence[tuple[str, Tensor]], signals: Signals, inner: bool) -> None:
        self.picks, self.signals = Picks(named), signals
        self.layers = Layers(model) if inner else None
        signals.layers = [name for name, _ in self.layers.layers] if self.layers is not None else []
        signals.names, signals.matrices = self.picks.names, self.picks.matrices.tolist()
        signals.sizes = self.picks.sizes.tolist()
        work = 4 * len(self.picks.names) + 2 * len(self.layers.layers if self.layers else ())
        self.every = max(50, 3 * work)
        self.due = Due(self.every)
        self.on = False
        self._last: tuple[Look, Floats, Floats, float] | None = None  # the look before, its gradient and update
        self._old: Floats | None = None  # the weights before that look's step
        self._first: Floats | None = None  # those before the first look's
        self._before: Floats | None = None  # the weights before the step
        self._gradient: Floats | None = None
        self._clip = NAN
        self._after: Floats | None = None
        self._raw: dict[int, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        big = sorted(range(len(self.picks.tensors)), key=lambda i: -self.picks.sizes[i])[:RAW]
        self._big = [i for i in big if self.picks.tensors[i].is_leaf]

    @property
    def wanted(self) -> bool:
        return self.on or self._last is not None

    def begin(self) -> None:
        """Look at the step to come."""
        self.on = True
        if self.layers is not None:
            self.layers.begin()
        self._raw = {}
        if not self._handles:
            learn = [i for i in self._big if self.picks.tensors[i].requires_grad]  # some may have been frozen since
            self._handles = [self.picks.tensors[i].register_post_accumulate_grad_hook(self._note(i)) for i in learn]

    def prepare(self, step: int) -> None:
        """A step is over: begin with the next if it is due."""
        if self.due(step):
            self.begin()
        elif self.on or self._handles:
            self.drop()

    def drop(self) -> None:
        """Look no more."""
        self.on = False
        for handle in self._handles:
            handle.remove()
        self._handles, self._raw = [], {}
        if self.layers is not None:
            self.layers.end()
            self.signals.facts["ran"] = sorted(self.layers.ran | set(self.signals.facts.get("ran", ())))

    def _note(self, i: int) -> Any:
        def note(p: Tensor) -> None:
            if p.grad is not None and p.grad.layout == torch.strided:
                self._raw[i] = local(p.grad).detach().norm()

        return note

    @torch.no_grad()
    def before(self) -> None:
        """The step is to come."""
        if self._before is not None:  # several optimizers step
            return
        self._before = self.picks.values() if self.on or self._old is not None else np.zeros(0)
        if self._old is not None and self._last is not None:
            look, _, update, _ = self._last
            moved = update != 0
            if moved.any():
                look.undone = float((self._before == self._old)[moved].mean())
        self._old = None

    @torch.no_grad()
    def complete(self) -> None:
        """The gradients are complete: before the step, or within it, where a closure works them out."""
        if self._gradient is None:
            self._gradient = self.picks.gradients()
            if self._raw:
                raw = math.sqrt(sum(float(n) ** 2 for n in self._raw.values()))
                grads = [g for g in (self.picks.tensors[i].grad for i in self._raw) if g is not None]
                norms: list[float] = [float(cast(Tensor, torch.linalg.vector_norm(local(g)))) for g in grads]
                left = math.hypot(*norms)
                self._clip = left / raw if raw and math.isfinite(raw) else NAN
            else:
                self._clip = NAN

    @torch.no_grad()
    def after(self, step: int, clip: float) -> None:
        """The step is taken."""
        gradient, weights, self._before, self._gradient = self._gradient, self._before, None, None
        if gradient is None or weights is None:  # no step
            self._last = self._old = None
            return
        if self._last is not None:
            self._follow(gradient)
        if not self.on:
            return
        update = self.picks.values() - weights
        sizes = self.picks.sizes_of
        with np.errstate(all="ignore"):
            live = np.isfinite(gradient) & (gradient != 0)
            moved = self.picks.sums(((update != 0) & live).astype(float)) / np.maximum(
                self.picks.sums(live.astype(float)), 1
            )
            zeros = self.picks.sums((gradient == 0).astype(float)) / np.maximum(self.picks.counts, 1)
            descent = _cosine(-gradient, update)
            look = Look(step, sizes(gradient), sizes(weights), sizes(update), zeros, moved, momentum=descent)
        self._first = weights if self._first is None else self._first
        away, length = weights - self._first, math.sqrt(_dot(update, update))
        look.travel = math.sqrt(_dot(away, away)) / length if length else NAN
        look.clip = self._clip if clip != clip else clip
        look.layers = self.layers.table() if self.layers is not None else np.zeros((0, len(FIELDS)))
        self.signals.looks.append(look)
        with np.errstate(all="ignore"):
            self._last = (look, gradient, update, _dot(gradient, update))
        self._old = weights

    def arrays(self) -> dict[str, Floats]:
        """What is to be kept of a look that the next step's gradient is still to complete."""
        first = {} if self._first is None else {"first weights": self._first}
        if self._last is None:
            return first
        _, gradient, update, _ = self._last
        weights = {} if self._old is None else {"last weights": self._old}
        return {"last gradient": gradient, "last update": update, **weights, **first}

    def load(self, arrays: Mapping[str, Floats]) -> None:
        """Take up what `arrays` gave; the signals are there already."""
        self._first = arrays.get("first weights")
        if "last gradient" in arrays:
            gradient, update = arrays["last gradient"], arrays["last update"]
            self._last = (self.signals.looks.items[-1], gradient, update, _dot(gradient, update))
            self._old = arrays.get("last weights")

    def _follow(self, gradient: Floats) -> None:
        """What the next gradient says of a step."""
        assert self._last is not None
        look, before, update, slope = self._last
        self._last = None
        with np.errstate(all="ignore"):
            look.cosine = _cosine(before, gradient)
            look.overshoot = _dot(gradient, update) / slope if slope else NAN
            look.noise = float(np.sum((gradient - before) ** 2) / max(np.sum(gradient**2 + before**2), 1e-300))


def _cosine(one: Floats, other: Floats) -> float:
    sizes = math.sqrt(_dot(one, one) * _dot(other, other))
    return _dot(one, other) / sizes if sizes and math.isfinite(sizes) else NAN


def _dot(one: Floats, other: Floats) -> float:
    return float(np.sum(one * other))  # not a BLAS call: its threads would spin beside torch's
