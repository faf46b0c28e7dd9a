"""Clip functions that learn what size of gradient is usual: for `clip_norm`, as in `clip_norm=sf.optim.ZClip()`.

What they have learned is saved and loaded with the optimizer's `state_dict`. Each belongs to one optimizer. A gradient
of norm zero, or with a NaN or an infinity in it, says nothing: it is let through, and nothing is learned from it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from surefoot.engine.gradient import factor
from surefoot.engine.options import Norms
from surefoot.errors import UserError
from surefoot.optim.loading import plain_name
from surefoot.optim.optimizer import is_number


@dataclass(eq=False)
class Learning:
    """What they share: a state, which is those of their fields that the constructor does not take."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of what was learned, in plain numbers."""
        return copy.deepcopy(self._learned())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; what does not fit changes nothing."""
        learned = self._learned()
        for name, value in learned.items():
            found = state.get(name)
            if not isinstance(found, dict if isinstance(value, dict) else Real):
                raise UserError(f"this is no state of {type(self).__name__}: its {name} is {found!r}")
        for name in learned:
            setattr(self, name, copy.copy(state[name]))

    def _learned(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.init}

    def _check(self, name: str, low: float, high: float = math.inf) -> None:
        """Refuse a setting that is no number from low to below high; if low is 0 and there is no high, nor 0 itself."""
        value: Any = getattr(self, name)
        whole = isinstance(type(self).__dict__[name], int)
        number = type(value) is int if whole else is_number(value) and type(value) is not bool
        if not (number and low <= value < high and (value > 0 or high < math.inf)):
            kind = "a whole number" if whole else "a number"
            within = f"{low:g} or more" if low else "above 0"
            within = within if high == math.inf else f"from {low:g} to below {high:g}"
            raise UserError(f"{type(self).__name__}: {name}={value!r}: it must be {kind}, {within}")
        setattr(self, name, int(value) if whole else float(value))  # NumPy's numbers would get into the state


@dataclass(eq=False)
class ZClip(Learning):
    """Clips the whole gradient where its norm stands out from those of the last steps.

        z = (norm - mean) / sigma
        limit = mean + threshold^2 / z * sigma       where z > threshold, else norm
        g = g * limit / norm
        mean = alpha * mean + (1 - alpha) * limit
        sigma^2 = alpha * sigma^2 + (1 - alpha) * (limit - mean)^2

    So the farther a norm stands out, the nearer to the mean it is cut. The first `warmup` norms are let through; their
    mean and variance are what the averages start from.

    Args:
        alpha: the share of the averages kept from step to step
        threshold: how many sigmas from the mean are usual
        warmup: steps that are learned from alone; 2 or more
        max_norm: no norm is let through that is larger, also in the warm-up; the authors' code has 1

    Raises:
        UserError: for a setting out of range, naming it

    Source: Kumar et al. 2025, "ZClip: adaptive spike mitigation for LLM pre-training" (arXiv:2504.02507), as in the
    authors' zclip, whose 1e-6 beside sigma is left out.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(1))
    >>> opt = sf.optim.SGD([w], lr=1.0, clip_norm=sf.optim.ZClip(warmup=4))
    >>> for size in (2.0, 4.0, 2.0, 4.0, 8.0):
    ...     w.grad = torch.tensor([size]); opt.step()
    >>> opt.last.clip_factor * 8                    # 8 is 5 sigmas from 3
    4.25
    """

    alpha: float = 0.97
    threshold: float = 2.5
    warmup: int = 25
    max_norm: float = math.inf
    steps: int = field(default=0, init=False, repr=False)
    mean: float = field(default=0.0, init=False, repr=False)
    variance: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._check("alpha", 0, 1)
        self._check("threshold", 0)
        self._check("warmup", 2)
        if self.max_norm != math.inf:
            self._check("max_norm", 0)

    def __call__(self, norms: Norms) -> float:
        norm = norms.total
        if not 0 < norm < math.inf:
            return 1.0
        self.steps += 1
        limit, above = norm, norm - self.mean
        if self.steps <= self.warmup:  # the mean and variance of all, one by one (Welford 1962)
            self.mean += above / self.steps
            self.variance += (above * (norm - self.mean) - self.variance) / self.steps
        else:
            if above > self.threshold * math.sqrt(self.variance):
                limit = self.mean + self.threshold**2 * self.variance / above
            self.mean = self.alpha * self.mean + (1 - self.alpha) * limit
            self.variance = self.alpha * self.variance + (1 - self.alpha) * (limit - self.mean) ** 2
        return min(limit, self.max_norm, norm) / norm


@dataclass(eq=False)
class AdaGC(Learning):
    """Clips each parameter's gradient to a little more than its usual norm.

        g = g * min(1, ratio * usual / norm(g))
        usual = beta * usual + (1 - beta) * norm(g)

    In the first `warmup` steps the whole gradient is clipped to `max_norm`, and usual is the least norm that is left.

    The least norm is a low start: from there usual can grow by (1 - beta) * (ratio - 1), 0.1 %, a step. Parameters
    whose gradients start near zero, as LoRA's do, are held back for long: let the warm-up begin after that.

    Args:
        ratio: how many times the usual norm is let through
        beta: the share of the usual norm kept from step to step
        warmup: steps in which the whole gradient is clipped
        max_norm: to what norm it is clipped then

    Raises:
        UserError: for a setting out of range, naming it

    Source: Wang et al. 2025, "AdaGC: enhancing LLM pretraining stability via adaptive gradient clipping"
    (arXiv:2502.11034), as in the authors' code for Megatron, whose 1e-6 beside norm(g) is left out after the warm-up. A
    parameter that joins after it starts from its own norm, as there.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(1))
    >>> opt = sf.optim.SGD([w], lr=1.0, clip_norm=sf.optim.AdaGC(ratio=1.5, warmup=2))
    >>> for size in (0.5, 0.25, 8.0):
    ...     w.grad = torch.tensor([size]); opt.step()
    >>> opt.last.clip_factor * 8                    # 1.5 times 0.25
    0.375
    """

    ratio: float = 1.05
    beta: float = 0.98
    warmup: int = 100
    max_norm: float = 1.0
    steps: int = field(default=0, init=False, repr=False)
    usual: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False)

    def __post_init__(self) -> None:
        self._check("ratio", 1)
        self._check("beta", 0, 1)
        self._check("warmup", 1)
        self._check("max_norm", 0)

    def __call__(self, norms: Norms) -> dict[str, float]:
        if not 0 < norms.total < math.inf:
            return {}
        self.steps += 1
        warming, whole = self.steps <= self.warmup, factor(self.max_norm, norms.total)
        factors: dict[str, float] = {}
        for name, norm in norms.tensors.items():
            key = plain_name(name)
            usual = self.usual.get(key, math.inf)
            limit = whole * norm if warming else min(norm, self.ratio * usual)
            if norm > 0:  # one of zero would be the least norm, and hold its parameter for ever
                factors[name] = whole if warming else limit / norm
                mean = limit if usual == math.inf else self.beta * usual + (1 - self.beta) * limit
                self.usual[key] = min(usual, limit) if warming else mean
        return factors


@dataclass(eq=False)
class SpikeClip(Learning):
    """Cuts spikes in each parameter's gradient: norms whose square is many times the average of such squares.

        v = v / (1 - beta^t)                        the average of squares, as Adam corrects it
        limit = sqrt(threshold * v)                     where norm(g)^2 > threshold * v, else norm(g)
        g = g * limit / norm(g)
        v = beta * v + (1 - beta) * limit^2

    SPAM does so with each element and Adam's second moment. This is its like for whole parameters, and so sees a spike
    only where that shows in the norm: in a matrix of a million elements one of them must be a thousand times the others
    to double its square. SPAM's reset of the momentum is no part of it.

    Args:
        threshold: from how many times the average on it is a spike. SPAM's 5000 is for single elements, whose squares
            scatter far more than those of norms
        beta: the share of the average kept from step to step
        warmup: gradients of a parameter that are learned from alone

    Raises:
        UserError: for a setting out of range, naming it

    Source: after Huang et al. 2025, "SPAM: spike-aware Adam with momentum reset for stable LLM training"
    (arXiv:2501.06842), spike-aware clipping; threshold and beta are ours, the warm-up is the authors'.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(1))
    >>> opt = sf.optim.SGD([w], lr=1.0, clip_norm=sf.optim.SpikeClip(threshold=16, warmup=2))
    >>> for size in (1.0, 1.0, 8.0):
    ...     w.grad = torch.tensor([size]); opt.step()
    >>> round(opt.last.clip_factor * 8, 6)
    4.0
    """

    threshold: float = 50.0
    beta: float = 0.99
    warmup: int = 20
    average: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False)
    seen: dict[str, int] = field(default_factory=dict[str, int], init=False, repr=False)

    def __post_init__(self) -> None:
        self._check("threshold", 1)
        self._check("beta", 0, 1)
        self._check("warmup", 1)

    def __call__(self, norms: Norms) -> dict[str, float]:
        if not 0 < norms.total < math.inf:
            return {}
        factors: dict[str, float] = {}
        for name, norm in norms.tensors.items():
            if norm > 0:
                key = plain_name(name)
                average, seen, limit = self.average.get(key, 0.0), self.seen.get(key, 0), norm
                if seen >= self.warmup:
                    limit = min(norm, math.sqrt(self.threshold * average / (1 - self.beta**seen)))
                    factors[name] = limit / norm
                self.average[key] = self.beta * average + (1 - self.beta) * limit * limit
                self.seen[key] = seen + 1
        return factors
