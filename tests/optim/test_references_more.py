"""Optimizers that torch does not have, against other people's code: over 100 steps they go the same way.

Where that code departs from the paper, what it does otherwise is taken out of it, and the table says what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import prodigyopt
import pytest
import schedulefree
import torch
from pytorch_optimizer.base.optimizer import BaseOptimizer
from pytorch_optimizer.optimizer import adamw, adan, ademamix, adopt, lamb, laprop, lars, mars
from torch import Tensor, nn

import surefoot as sf

SHAPES = [(4, 3), (5,), (2, 3, 2)]
Before = Callable[[torch.optim.Optimizer, int], None]


@dataclass(frozen=True)
class Case:
    """One optimizer beside other people's.

    theirs: their class, or a function that makes one
    ours, both: options for ours alone, and for both
    options: for theirs alone
    before: called with theirs before each step t
    departs: what theirs does otherwise than the paper, and how it is taken out
    """

    name: str
    theirs: Callable[..., Any]
    both: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    before: Before | None = None
    departs: str = ""
    shapes: list[tuple[int, ...]] = field(default_factory=lambda: SHAPES)


def exact_root(cls: type) -> type:
    """Their optimizer without the 1e-15 that is added under the root, and without foreach's own copy of it."""
    own = staticmethod(partial(BaseOptimizer.apply_ams_bound, exp_avg_sq_eps=0.0))
    each = staticmethod(partial(BaseOptimizer.apply_ams_bound_foreach, exp_avg_sq_eps=0.0))
    return type(cls.__name__, (cls,), {"apply_ams_bound": own, "apply_ams_bound_foreach": each})


class Lamb(lamb.Lamb):
    """Theirs with norms of weights as they are."""

    clamp = float("inf")


def unbiased(opt: torch.optim.Optimizer, t: int) -> None:
    """Give betas with which averages come out corrected for their bias."""
    for group in opt.param_groups:
        group["betas"] = tuple(beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in (0.9, 0.99))


def decaying(weight_decay: float) -> Before:
    """Decay before the step, as AdamW does."""

    def before(opt: torch.optim.Optimizer, t: int) -> None:
        for group in opt.param_groups:
            for p in group["params"]:
                p.data.mul_(1 - group["lr"] * weight_decay)

    return before


def no_change_at_first(opt: torch.optim.Optimizer, t: int) -> None:
    for group in opt.param_groups:
        group["gamma"] = 0.0 if t == 1 else 0.1


CASES = [
    Case("Adan", adan.Adan, {}),
    Case("Adan", adan.Adan, {"lr": 1e-2, "betas": (0.9, 0.8, 0.95), "weight_decay": 0.1, "eps": 1e-4}),
    *(
        Case(
            "ADOPT",
            adopt.ADOPT,
            {"lr": 1e-2, "betas": (0.8, 0.99), "weight_decay": decay},
            {"weight_decouple": decouple, "clip_lambda": lambda t: (t - 1) ** 0.25},
            {"decouple": decouple},
            departs="the authors count steps from 0 in the bound t^(1/4); theirs counts from 1: it is told t - 1",
        )
        for decay, decouple in ((0.0, False), (0.1, False), (0.1, True))
    ),
    Case("AdEMAMix", ademamix.AdEMAMix, {}),
    Case(
        "AdEMAMix",
        ademamix.AdEMAMix,
        {"lr": 1e-2, "betas": (0.8, 0.9, 0.999), "alpha": 2.0, "weight_decay": 0.1},
        {"t_alpha_beta3": 60, "weight_decouple": True},
        {"alpha_warmup": 60, "beta3_warmup": 60},
    ),
    Case(
        "LaProp",
        exact_root(laprop.LaProp),
        {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 0.0},
        {"foreach": False},  # that rounds rates to single precision
        {"weight_decay": 0.1},
        before=decaying(0.1),
        departs="eps is divided by the bias correction, beside another under the root: there are none here; and it "
        "decays after the step: here before it, as AdamW",
    ),
    Case(
        "MARS",
        exact_root(mars.MARS),
        {"lr": 1e-2, "gamma": 0.1, "eps": 0.0, "weight_decay": 0.1},
        {"optimize_1d": True},
        before=no_change_at_first,
        departs="the gradient before the first counts as 0, so that the first is scaled up; in algorithm 2 it is the "
        "first: gamma is 0 there. eps as with LaProp",
    ),
    Case("StableAdamW", adamw.StableAdamW, {}),
    Case("StableAdamW", adamw.StableAdamW, {"lr": 1e-2, "betas": (0.5, 0.99), "weight_decay": 0.1, "eps": 1e-3}),
    Case(
        "LAMB",
        Lamb,
        {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 0.0},
        {"weight_decouple": False, "adam_debias": True},
        before=unbiased,
        departs="no bias correction but of the rate: that is off, and betas that need none are put in; weights' norms "
        "are cut at 10, and eps is added to the updates' norms: not here",
    ),
    *(
        Case(
            "LARS",
            lars.LARS,
            {"lr": 0.5, "momentum": momentum, "weight_decay": 0.1, "trust_coefficient": 0.01},
            ours={"eps": 0.0},
            departs="vectors take steps of SGD; algorithm 1 knows no such difference: there are only matrices here",
            shapes=[(4, 3), (5, 1), (2, 3, 2)],
        )
        for momentum in (0.0, 0.9)
    ),
    *(
        Case("Prodigy", prodigyopt.Prodigy, options)
        for options in (
            {},
            {"weight_decay": 0.1, "use_bias_correction": True, "lr": 0.5},
            {"weight_decay": 0.1, "decouple": False, "safeguard_warmup": True, "d0": 1e-3, "d_coef": 2.0},
            {"betas": (0.5, 0.9), "beta3": 0.95, "growth_rate": 1.05, "eps": 1e-3, "d0": 1e-3},
        )
    ),
    *(
        Case("ScheduleFreeSGD", schedulefree.SGDScheduleFree, options)
        for options in (
            {"lr": 0.1},
            {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "warmup_steps": 30, "r": 1.0, "weight_lr_power": 1.0},
        )
    ),
    *(
        Case("ScheduleFreeAdamW", schedulefree.AdamWScheduleFree, options)
        for options in (
            {},
            {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1, "warmup_steps": 30, "r": 1.0, "eps": 1e-3},
        )
    ),
]


class Problem:
    """Noisy gradients of random quadratic functions of some parameters, the same for each that has the same seed."""

    def __init__(self, seed: int, shapes: list[tuple[int, ...]] = SHAPES) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self.params = [nn.Parameter(self._draw(shape)) for shape in shapes]
        self._steep = [self._draw(shape).exp() for shape in shapes]

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._random, dtype=torch.float64)

    def give(self) -> None:
        for p, steep in zip(self.params, self._steep, strict=True):
            p.grad = steep * p.detach() + 0.3 * self._draw(p.shape)


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}({case.both})")
def test_it_goes_their_way(case, seed):
    sides = [Problem(seed, case.shapes) for _ in range(2)]
    ours = getattr(sf.optim, case.name)(sides[0].params, **case.both, **case.ours)
    theirs = case.theirs(sides[1].params, **case.both, **case.options)
    if hasattr(theirs, "train"):
        theirs.train()
    for t in range(1, 101):
        if t == 50 and not case.departs:  # as a schedule would: what has a memory of rates must keep it
            for group in (*ours.param_groups, *theirs.param_groups):
                group["lr"] /= 2
        for side in sides:
            side.give()
        if case.before is not None:
            case.before(theirs, t)
        ours.step()
        theirs.step()
    assert_same(*(side.params for side in sides))
    if "d" in ours.param_groups[0]:
        assert ours.param_groups[0]["d"] == pytest.approx(theirs.param_groups[0]["d"], rel=1e-9)
        assert ours.param_groups[0]["d"] > 1e-2
    if hasattr(theirs, "eval"):
        theirs.eval()
        with ours.averaged():
            assert_same(*(side.params for side in sides))


def test_each_departure_makes_a_difference():
    """The table says nothing that is not so: as they are, those that are said to depart do not go the same way."""
    for case in CASES:
        plain = {**case.options, "clip_lambda": lambda t: t**0.25} if case.name == "ADOPT" else case.options
        cls = next(
            (base for base in getattr(case.theirs, "__mro__", ()) if "pytorch_optimizer" in base.__module__), None
        )
        if not case.departs or cls is None:
            continue
        sides = [Problem(0) for _ in range(2)]
        both = case.both if "eps" not in case.both else {**case.both, "eps": 1e-2}
        ours = getattr(sf.optim, case.name)(sides[0].params, **both, **case.ours)
        theirs = cls(sides[1].params, **both, **plain)
        for _ in range(100):
            for side, opt in zip(sides, (ours, theirs), strict=True):
                side.give()
                opt.step()
        with pytest.raises(AssertionError):
            assert_same(*(side.params for side in sides))


@pytest.mark.parametrize("rest", [0.0, 0.3])
def test_prodigys_groups_share_the_rate_and_may_have_their_own_lr(rest):
    """A group at rest is as theirs; other rates theirs refuses."""
    sides = [Problem(0) for _ in range(2)]
    classes = (sf.optim.Prodigy, prodigyopt.Prodigy)
    opts = [
        cls([{"params": side.params[:2]}, {"params": side.params[2:], "lr": rest}])
        for cls, side in zip(classes, sides, strict=True)
    ]
    for _ in range(100):
        sides[0].give()
        opts[0].step()
        assert len({group["d"] for group in opts[0].param_groups}) == 1
        assert len({group["d_numerator"] for group in opts[0].param_groups}) == 1
    assert opts[0].param_groups[0]["d"] > 1e-2
    for _ in range(100):
        sides[1].give()
        if rest:
            with pytest.raises(RuntimeError, match="different lr"):
                opts[1].step()
            return
        opts[1].step()
    assert_same(*(side.params for side in sides))
