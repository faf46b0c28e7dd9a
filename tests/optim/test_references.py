"""Lion, Signum, AdaBelief and Yogi against pytorch_optimizer's: over 100 steps they go the same way.

Lion and Signum step by a sign, Yogi's second moment goes by one: where rounding decided such a sign, both sides would
part for good. With noisy gradients in double precision what the sign is taken of is never that near to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_optimizer.optimizer import adabelief, lion, sgd, yogi
from test_references_more import Problem

import surefoot as sf


@dataclass(frozen=True)
class Case:
    """One optimizer beside other people's.

    theirs: their class, or a function that makes one
    both, ours: options for both, and for ours alone
    near: how far the parameters may be apart after 100 steps, relative to their size
    remark: what either does otherwise than the paper or its authors' code
    """

    name: str
    theirs: Callable[..., Any]
    both: dict[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)
    near: float = 1e-12
    remark: str = ""


RECTIFIED = "the authors' code rectifies as RAdam does unless told not to; algorithm 2 does not, nor do these"
YOGI = (
    "on both sides m starts at initial_accumulator and eps stands beside the corrected root; in TensorFlow Addons m "
    "starts at 0 and the rate is what is corrected. Weight decay: ours is added to the gradient, so theirs is told to"
)
CASES = [
    Case("Lion", lion.Lion, {}),
    Case("Lion", lion.Lion, {"lr": 1e-2, "betas": (0.95, 0.98), "weight_decay": 0.1}),
    Case("Signum", sgd.SignSGD, {"lr": 1e-4}, remark="theirs has a rate of 1e-3 by default"),
    Case("Signum", sgd.SignSGD, {"lr": 1e-2, "momentum": 0.5, "weight_decay": 0.1}),
    Case("Signum", sgd.SignSGD, {"lr": 1e-2, "momentum": 0.0}, remark="signSGD: theirs then keeps no momentum at all"),
    Case("AdaBelief", adabelief.AdaBelief, {}, remark=RECTIFIED),
    Case("AdaBelief", adabelief.AdaBelief, {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    Case(
        "AdaBelief",
        partial(adabelief.AdaBelief, weight_decouple=False),
        {"lr": 1e-2, "weight_decay": 0.1},
        {"decoupled_weight_decay": False},
    ),
    Case("Yogi", yogi.Yogi, {}, remark=YOGI),
    Case(
        "Yogi",
        partial(yogi.Yogi, weight_decouple=False),
        {"betas": (0.8, 0.9), "weight_decay": 0.1, "initial_accumulator": 1e-3, "eps": 1e-4},
        remark=YOGI,
    ),
]


@pytest.mark.parametrize("maximize", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}({case.both})")
def test_it_goes_their_way(case, seed, maximize):
    sides = [Problem(seed) for _ in range(2)]
    start = [p.detach().clone() for p in sides[0].params]
    ours = getattr(sf.optim, case.name)(sides[0].params, **case.both, **case.ours, maximize=maximize)
    theirs = case.theirs(sides[1].params, **case.both, maximize=maximize)
    for t in range(1, 101):
        if t == 50:  # as a schedule would
            for group in (*ours.param_groups, *theirs.param_groups):
                group["lr"] /= 2
        for side, opt in zip(sides, (ours, theirs), strict=True):
            side.give()
            for p in side.params:
                p.grad *= -1 if maximize else 1
            opt.step()
    for p, q, was in zip(*(side.params for side in sides), start, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=case.near, atol=case.near)
        assert (p - was).abs().max() > 1e-3  # they have gone somewhere
