"""The compiled kernels against the reference backend: any shapes, layouts, options, non-finite numbers and threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from cases import ALL, IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine import cpu, threads
from surefoot.engine.engine import Engine
from surefoot.engine.lane import CHUNK
from surefoot.engine.options import Clip, Options
from surefoot.engine.update import Update
from surefoot.rules.rule import Rule, X, absolute, maximum, minimum, sign, sqrt, where

BIG = 3 * CHUNK + 5
SHAPES = [(0,), (3, 0), (), (1,), (7,), (5, 3), (2, 3, 4, 5), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (BIG,)]
ENGINE = {
    "plain": {},
    "norm": {"clip_norm": 0.5},
    "largest": {"clip_norm": Clip(0.25, norm_type=math.inf)},
    "per_group": {"clip_norm": Clip(0.5, per_group=True), "skip_nonfinite": True},
    "value": {"clip_value": 0.75},
    "cautious": {"cautious": True, "ema": 0.9},
    "clearing": {"zero_grad_in_step": True},
    "all": {"clip_value": 0.75, "cautious": True, "ema": 0.75, "zero_grad_in_step": True, "skip_nonfinite": True},
}
OTHER_KERNELS = ["value", "cautious", "clearing", "all"]  # compiling one takes time: each rule gets the last


def rule_of(name: str, options: dict) -> Rule:
    opt = getattr(sf.optim, name)([nn.Parameter(torch.ones(1))], **options)
    return opt.rule(opt.param_groups[0])


ONE_EACH = {rule_of(*case): case for case in ALL}.values()
PAIRS = [(case, list(ENGINE)[i % 4]) for i, case in enumerate(ALL)]
PAIRS += [(case, "all") for case in ONE_EACH] + [(("AdamW", {}), engine) for engine in ENGINE]


@contextmanager
def reference_only() -> Iterator[None]:
    """Inside, all runs as torch operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "available", lambda *_: False)
        yield


def is_compiled(opt: sf.optim.Optimizer) -> bool:
    """Whether compiled kernels took all parameters of the last step."""
    return bool(opt._engine._plan.lanes) and not opt._engine._plan.items


def with_gradient(value: Tensor, grad: Tensor) -> nn.Parameter:
    p = nn.Parameter(value.clone())
    p.grad = grad.clone()
    return p


# --- any list of tensors, any gradients, any options ---------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> list[dict]:
    """Shapes, precisions, groups, and in which of the four steps each has a gradient."""
    kinds = st.fixed_dictionaries(
        {
            "shape": st.sampled_from(SHAPES),
            "dtype": st.sampled_from([torch.float32, torch.float64]),
            "group": st.integers(0, 1),
            "steps": st.lists(st.sampled_from([True, True, True, False]), min_size=4, max_size=4),
        }
    )
    return draw(st.lists(kinds, min_size=1, max_size=6))


def trajectory(kinds: list[dict], case: tuple, engine: dict, seed: int, bad_step: int, dtype=None) -> list[dict]:
    """What there is to see after each of four steps; `dtype` is computed in, where it is not each tensor's own.

    Gradients are odd multiples of a quarter. So no sum of them, weighted as momentum is, comes near zero, where
    rounding would decide the cautious update's mask.
    """
    name, options = case
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** -(seed % 4)
    params = [torch.randn(kind["shape"], generator=generator) * scale for kind in kinds]
    params = [nn.Parameter(p.to(dtype or kind["dtype"])) for p, kind in zip(params, kinds, strict=True)]
    groups = [{"params": [p for p, kind in zip(params, kinds, strict=True) if kind["group"] == i]} for i in (0, 1)]
    groups[1].update(lr=3 * options.get("lr", 1e-3), maximize=seed % 2 == 1)
    opt = getattr(sf.optim, name)(groups, **options, **engine)
    seen = []
    for step in range(4):
        for p, kind in zip(params, kinds, strict=True):
            grad = (2 * torch.randint(-3, 3, kind["shape"], generator=generator) + 1) / 4
            grad = grad if engine.get("cautious") else grad + torch.randn(kind["shape"], generator=generator)
            if step == bad_step and grad.numel() and engine.get("skip_nonfinite"):
                grad.view(-1)[-1] = math.nan
            p.grad = grad.to(p.dtype) if kind["steps"][step] else None
        opt.step()
        seen.append({"numbers": numbers(params, opt), "facts": facts(params, opt), "norm": opt.last.grad_norm})
    if dtype is None and any(kind["steps"][-1] for kind in kinds):
        seen.append(is_compiled(opt))
    return seen


def numbers(params: list[nn.Parameter], opt: sf.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that a step may write."""
    found = {f"parameter {i}": p.detach().clone() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        kept = opt.state.get(p, {})
        found |= {f"{name} of {i}": value.clone() for name, value in kept.items() if name != "step"}
    return found


def facts(params: list[nn.Parameter], opt: sf.optim.Optimizer) -> dict[str, object]:
    """What is the same to the last bit in every backend."""
    return {
        "steps": [opt.state[p]["step"].item() if "step" in opt.state.get(p, {}) else None for p in params],
        "cleared": [None if p.grad is None else not p.grad.any().item() for p in params],
        "skipped": opt.last.skipped,
        "reported": sorted(opt.last.update_ratio),
    }


def distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).norm().item()


@pytest.mark.parametrize(
    ("case", "engine"), PAIRS, ids=[f"{IDS[ALL.index(case)]}-{engine}" for case, engine in PAIRS]
)
@settings(max_examples=6, deadline=None)
@given(kinds=tensors(), seed=st.integers(0, 1000), bad_step=st.integers(0, 9))
def test_the_error_is_at_most_twice_the_references(case, engine, kinds, seed, bad_step):
    """Against the reference backend in double precision; fp64 tensors make an error as much smaller as their ulp is."""
    name, options = case
    if engine in OTHER_KERNELS and name != "AdamW":
        kinds = [{**kind, "dtype": torch.float32} for kind in kinds]
        options = {**options, "weight_decay": 0}  # added to the gradient, it could bring a sum of them near zero
    arguments = (kinds, (name, options), ENGINE[engine], seed, bad_step)
    ours = trajectory(*arguments)
    with reference_only():
        truth, single = (trajectory(*arguments, dtype) for dtype in (torch.float64, torch.float32))
    if len(ours) == 5:
        assert ours.pop()
    largest: dict[str, float] = {}
    for step, (a, b, c) in enumerate(zip(ours, truth, single, strict=True), start=1):
        assert a["facts"] == b["facts"]
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-6, nan_ok=True)
        assert a["numbers"].keys() == b["numbers"].keys()
        for key, found in a["numbers"].items():
            right, eps = b["numbers"][key], torch.finfo(found.dtype).eps
            largest[key] = max(largest.get(key, 0.0), right.abs().max().item() if right.numel() else 0.0)
            theirs = distance(c["numbers"][key], right) * eps / torch.finfo(torch.float32).eps
            ulps = max(4 * step * eps, 1e-13)  # in fp64 the norm's sum, in another order, has an error of its own
            bound = max(2 * theirs, ulps * largest[key] * math.sqrt(right.numel()))
            assert distance(found, right) <= bound, (key, step)
