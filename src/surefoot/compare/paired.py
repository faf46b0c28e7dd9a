"""Paired runs: two ways of training from the same initial weights on the same batches, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from surefoot.errors import UserError

T = TypeVar("T", bound=Hashable)

RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """How two ways of training differ: their results on the same seeds, lower is better.

    >>> pair = Paired((1.0, 1.1, 0.9, 1.0, 1.2), (0.5, 0.6, 0.5, 0.4, 0.7))
    >>> round(pair.gain, 2), [round(bound, 2) for bound in pair.interval], pair.sure
    (0.5, [0.44, 0.56], True)
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.first) != len(self.second) or not self.first:
            raise UserError("paired runs need a result of both for every seed, and at least one seed")

    @property
    def differences(self) -> tuple[float, ...]:
        """By how much the second is better, seed by seed."""
        return tuple(a - b for a, b in zip(self.first, self.second, strict=True))

    @property
    def gain(self) -> float:
        """By how much the second is better in the mean."""
        return float(np.mean(self.differences))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the gain, by resampling the seeds (always the same way)."""
        return resampled(self.differences)

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.interval
        return low > 0 or high < 0


def resampled(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The bootstrap interval of a mean (Efron 1979, percentile method)."""
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def noise_floor(results: Sequence[float]) -> float:
    """The difference that two runs of one way show by their seeds alone: twice the standard deviation.

    >>> noise_floor([1.0, 1.0, 1.2])
    0.2309...
    """
    return 2 * float(np.std(results, ddof=1)) if len(results) > 1 else 0.0


def closed(bad: Sequence[float], mended: Sequence[float], good: Sequence[float], floor: float) -> list[float | None]:
    """For each seed the share of the gap between a bad way and a good one that a mended one closes; None where there is
    no gap beyond the floor.

    >>> closed([1.0, 1.0], [0.5, 0.1], [0.0, 0.95], floor=0.1)
    [0.5, None]
    """
    return [(b - m) / (b - g) if b - g > floor else None for b, m, g in zip(bad, mended, good, strict=True)]


def over_seeds(run: Callable[[T, int], float], way: T, seeds: Sequence[int]) -> tuple[float, ...]:
    """The results of one way of training on some seeds; a seed fixes initial weights and batches, so that ways pair."""
    return tuple(run(way, seed) for seed in seeds)
