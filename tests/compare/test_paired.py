"""Paired runs, their interval, the noise of seeds, and the share of a gap that is closed."""

from __future__ import annotations

import numpy as np
import pytest

import surefoot as sf
from surefoot.compare.paired import Paired, closed, noise_floor, over_seeds, resampled


def test_pairs_are_surer_than_two_samples():
    """Seeds differ by far more than the two ways do."""
    seeds = np.random.default_rng(1).normal(0, 10, 8)
    pair = Paired(tuple(seeds + 0.5), tuple(seeds + np.linspace(-0.1, 0.1, 8)))
    assert pair.sure
    assert pair.interval[0] < pair.gain < pair.interval[1]
    assert pair.gain == pytest.approx(0.5)
    assert not Paired(tuple(seeds), tuple(seeds[::-1])).sure


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """The percentile interval of 20 values is known to hold it a little less often than 95 times of 100."""
    r = np.random.default_rng(2)
    held = [low < 0 < high for low, high in (resampled(r.normal(0, 1, 20)) for _ in range(200))]
    assert 0.86 < np.mean(held) <= 1


def test_results_must_pair():
    with pytest.raises(sf.UserError, match="a result of both for every seed"):
        Paired((1.0, 2.0), (1.0,))
    with pytest.raises(sf.UserError, match="at least one seed"):
        Paired((), ())


def test_no_gap_no_share():
    assert closed([1.0, 1.0, 1.0], [0.0, 2.0, 0.9], [0.0, 0.0, 0.95], noise_floor([0.0, 0.1])) == [1.0, -1.0, None]
    assert noise_floor([1.0]) == 0.0


def test_a_seed_gives_both_ways_the_same_start():
    def run(lr: float, seed: int) -> float:
        return float(np.random.default_rng(seed).normal()) + lr

    pair = Paired(over_seeds(run, 0.5, range(5)), over_seeds(run, 0.25, range(5)))
    assert pair.differences == pytest.approx([0.25] * 5)
