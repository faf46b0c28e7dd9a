"""Over 200 steps, our rounding error is at most twice torch's own, for every option, model and precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import ALL, IDS, replay, trajectory
from equations import truth as truth_of

import surefoot as sf


def error(params: list[torch.Tensor], truth: list) -> float:
    """The norm of the difference, in extended precision."""
    return float(
        np.sqrt(sum(((p.numpy().astype(np.longdouble) - t) ** 2).sum() for p, t in zip(params, truth, strict=True)))
    )


@pytest.mark.parametrize("kind", ["mlp", "conv", "norm"])
@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_error_is_at_most_twice_torchs(name, options, kind):
    start, gradients = trajectory(kind, steps=200, seed=100 * ALL.index((name, options)) + len(kind))
    truth = truth_of(name, options, start, gradients)
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float64 and np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
            continue  # this platform has nothing more precise to compare with
        ours = error(replay(getattr(sf.optim, name), options, start, gradients, dtype), truth)
        theirs = error(replay(getattr(torch.optim, name), options, start, gradients, dtype), truth)
        moved = error(start, truth)
        assert theirs < 1e-3 * moved  # the equation and torch do the same thing
        assert ours <= 2 * theirs, f"{dtype}: {ours:.2e} against {theirs:.2e}"
