"""Clip functions that learn what a usual gradient is: `clip_norm=sf.optim.ZClip()`, and so on.

They are asked at each step for factors of the gradient. What they know goes with the optimizer's `state_dict`; each
optimizer needs one of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from surefoot.engine.options import Norms
from surefoot.errors import UserError


@dataclass
class Learning:
    """What the clip functions share: checks, and a state."""

    def __post_init__(self) -> None:
        for f in fields(self):
            low, high = f.metadata.get("range", (None, None))
            value = getattr(self, f.name)
            if low is not None and not (isinstance(value, int | float) and low <= value <= high):
                raise UserError(f"{type(self).__name__}: {f.name}={value!r}: it must be a number from {low} to {high}")

    def state_dict(self) -> dict[str, Any]:
        """What it has learned, as plain numbers."""
        return {name: value for name, value in asdict(self).items() if name in self._learned()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what another has learned."""
        if set(state) != self._learned():
            raise UserError(f"this is no state of {type(self).__name__}: it holds {', '.join(sorted(state))}")
        for name, value in state.items():
            setattr(self, name, copy.copy(value))

    def _learned(self) -> set[str]:
        return {f.name for f in fields(self) if not f.init}


def _setting(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass
class ZClip(Learning):
    """Clips the whole gradient where its norm is an outlier among those of late.

        z = (norm - mean) / sigma
        most = mean + threshold ^ 2 / z * sigma             where z > threshold
        factor = most / norm

    mean and sigma are running averages over clipped norms; the first `warmup` norms start them.

    Args:
        alpha: how much of them is kept from step to step
        threshold: how many sigmas are usual
        warmup: steps that are only learned from

    Source: Kumar et al. 2025, "ZClip: adaptive spike mitigation for LLM pre-training" (arXiv:2504.02507), algorithm 1.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(1))
    >>> opt = sf.optim.SGD([w], lr=1.0, clip_norm=sf.optim.ZClip(warmup=3))
    >>> for size in (1.0, 1.2, 0.8, 100.0):
    ...     w.grad = torch.tensor([size]); opt.step()
    >>> round(opt.last.clip_factor, 3)
    0.01
    """

    alpha: float = _setting(0.97, 0, 1)
    threshold: float = _setting(2.5, 0, math.inf)
    warmup: int = _setting(25, 1, math.inf)
    steps: int = field(default=0, init=False)
    mean: float = field(default=0.0, init=False)
    variance: float = field(default=0.0, init=False)

    def __call__(self, norms: Norms) -> float:
        norm = norms.total
        if not math.isfinite(norm):
            return 1.0
        self.steps += 1
        if self.steps <= self.warmup:  # mean and variance of all so far (Welford)
            change = norm - self.mean
            self.mean += change / self.steps
            self.variance += (change * (norm - self.mean) - self.variance) / self.steps
            return 1.0
        sigma = math.sqrt(self.variance)
        z = (norm - self.mean) / sigma if sigma > 0 else 0.0
        most = self.mean + self.threshold**2 / z * sigma if z > self.threshold else norm
        self.mean = self.alpha * self.mean + (1 - self.alpha) * most
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (most - self.mean) ** 2
        return min(1.0, most / norm) if norm > 0 else 1.0


@dataclass
class AdaGC(Learning):
    """Clips each parameter's gradient to a little more than the usual norm of its own.

        usual = beta * usual + (1 - beta) * min(norm, ratio * usual)
        factor = min(1, ratio * usual / norm)

    For the first `warmup` steps the whole gradient is clipped to `max_norm`, and usual is the least norm seen.

    Args:
        ratio: how much more than usual is let through
        beta: how much of the usual norm is kept from step to step
        warmup: steps before parameters go by their own norms
        max_norm: of the whole gradient until then

    Source: Wang et al. 2025, "AdaGC: improving training stability for large language model pretraining"
    (arXiv:2502.11034), algorithm 1.

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], clip_norm=sf.optim.AdaGC())
    """

    ratio: float = _setting(1.05, 0, math.inf)
    beta: float = _setting(0.98, 0, 1)
    warmup: int = _setting(100, 0, math.inf)
    max_norm: float = _setting(1.0, 0, math.inf)
    steps: int = field(default=0, init=False)
    usual: dict[str, float] = field(default_factory=dict[str, float], init=False)

    def __call__(self, norms: Norms) -> dict[str, float]:
        if not math.isfinite(norms.total):
            return {}
        self.steps += 1
        factors: dict[str, float] = {}
        whole = min(1.0, self.max_norm / norms.total) if norms.total > 0 else 1.0
        for name, norm in norms.tensors.items():
            usual = self.usual.get(name)
            if self.steps <= self.warmup or usual is None:
                factors[name] = whole
                self.usual[name] = norm * whole if usual is None else min(usual, norm * whole)
            else:
                factors[name] = min(1.0, self.ratio * usual / norm) if norm > 0 else 1.0
                self.usual[name] = self.beta * usual + (1 - self.beta) * norm * factors[name]
        return factors


@dataclass
class SpikeClip(Learning):
    """Cuts spikes in each parameter's gradient: norms whose square is many times its running average.

        v = beta * v + (1 - beta) * min(norm ^ 2, threshold * v)
        factor = min(1, sqrt(threshold * v) / norm)

    SPAM does so for each element, with Adam's second moment, and forgets the momentum from time to time. This is its
    form for whole tensors, for any optimizer.

    Args:
        threshold: how many times the average is a spike
        beta: how much of the average is kept from step to step
        warmup: steps that are only learned from

    Source: after Huang et al. 2025, "SPAM: spike-aware Adam with momentum reset for stable LLM training"
    (arXiv:2501.06842), section 3.

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], clip_norm=sf.optim.SpikeClip(threshold=100))
    """

    threshold: float = _setting(50.0, 1, math.inf)
    beta: float = _setting(0.99, 0, 1)
    warmup: int = _setting(10, 1, math.inf)
    steps: int = field(default=0, init=False)
    average: dict[str, float] = field(default_factory=dict[str, float], init=False)

    def __call__(self, norms: Norms) -> dict[str, float]:
        if not math.isfinite(norms.total):
            return {}
        self.steps += 1
        factors: dict[str, float] = {}
        for name, norm in norms.tensors.items():
            average = self.average.get(name, norm**2)
            most = norm if self.steps <= self.warmup else min(norm, math.sqrt(self.threshold * average))
            factors[name] = most / norm if norm > 0 else 1.0
            self.average[name] = self.beta * average + (1 - self.beta) * most**2
        return factors
