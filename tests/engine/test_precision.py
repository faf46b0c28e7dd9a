"""One step errs by no more than the rounding of what is stored: every optimizer, option and precision."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from cases import ALL, IDS
from test_rounding import HALVES, parameters, unit
from torch import nn

import surefoot as sf
from surefoot.engine import states
from surefoot.engine.options import Options

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
STATES = [{"state_dtype": name} for name in ("bf16", "fp16", "fp32")]
OPTIONS = [
    {"clip_norm": 1.0},
    {"clip_norm": sf.optim.Clip(2.0, norm_type=math.inf)},
    {"clip_value": 1.0},
    {"cautious": True},
    {"ema": 0.9},
    {"zero_grad_in_step": True},
    {"skip_nonfinite": True},
    {"master_weights": True},
    {"rounding": "nearest"},
    {"rounding": "stochastic"},
    *STATES,
]
USUAL = [("SGD", {"lr": 0.05, "momentum": 0.9}), ("AdamW", {})]


def right(case: tuple[str, dict], opt: sf.optim.Optimizer, params: list[nn.Parameter]) -> list[dict[str, torch.Tensor]]:
    """What parameters and states should be after the step, by torch in double precision, and a doubt left open.

    The signs that Rprop goes by are those of what both sides hold, and no gradient is near zero: there is no doubt.
    """
    name, options = case
    group, engine = opt.param_groups[0], opt.options
    decay = group["weight_decay"] if opt.decoupled(group) else 0  # the rest decays through the gradient
    grads = [p.grad.double() for p in params]
    if engine.clip_norm is not None:
        # a sum of thousands: in extended precision, or it would be what errs
        elements = np.concatenate([g.flatten().numpy() for g in grads]).astype(np.longdouble)
        norm = float(np.linalg.norm(elements, engine.clip_norm.norm_type))
        grads = [g * min(1, engine.clip_norm.max_norm / (norm + 1e-6)) for g in grads]
    if engine.clip_value is not None:
        grads = [g.clamp(-engine.clip_value, engine.clip_value) for g in grads]
    before = [opt.state.get(p, {}).get("master", p.detach()).double() for p in params]
    after = [nn.Parameter(x.clone()) for x in before]
    torch.set_default_dtype(torch.float64)  # which torch keeps numbers such as NAdam's mu_product in
    twin = getattr(torch.optim, name)(after, **{**options, "weight_decay": 0} if decay else options)
    for p, q, g in zip(params, after, grads, strict=True):
        q.grad = g
        kept = dict(opt.state.get(p, {}))
        if not kept and opt.rule(group).start:  # what is stored at first, such as Rprop's first size, is rounded, too
            states.start(opt.rule(group), group, p, kept, engine)
        twin.state[q].update({k: t.to(t if k == "step" else q, copy=True) for k, t in kept.items()})
    twin.step()
    torch.set_default_dtype(torch.float32)
    found = []
    doubt = torch.zeros(())
    for x, q, g in zip(before, after, grads, strict=True):
        moved = x - q.detach()
        if engine.cautious:
            g = (-g if group["maximize"] else g) + (0 if decay else group.get("weight_decay", 0)) * x
            agrees = moved * g > 0
            if name != "Rprop":  # a direction that is zero but for rounding may count or not; of Rprop's none is
                doubt = (moved.abs() < 1e-6 * group["lr"]).sum() / (agrees.sum() + 1) * moved.abs()
            moved = torch.where(agrees, moved * x.numel() / (agrees.sum() + 1), 0)
        kept = {key: value for key, value in twin.state[q].items() if key not in ("step", "ema", "master")}
        found.append({"parameter": x - moved - group["lr"] * decay * x, "doubt": doubt, **kept})
    return found


def check(case: tuple[str, dict], engine: dict, dtype: torch.dtype) -> None:
    """Step by step, each from parameters and states that are the same on both sides."""
    params = [nn.Parameter(p.detach() + 3 * p.detach().sign()) for p in parameters(dtype)]
    opt = getattr(sf.optim, case[0])(params, **case[1], **engine)
    for seed in range(4):
        torch.manual_seed(seed)
        for p in params:  # larger than the decay: where they cancel, single precision shows
            sign = torch.where(torch.rand(p.shape) < 0.2, -1, 1) * p.detach().sign()
            p.grad = torch.empty_like(p).copy_((torch.rand(p.shape) + 2) * sign)
        truth = right(case, opt, params)
        old = [{"parameter": p.detach().clone(), **copy.deepcopy(opt.state.get(p, {}))} for p in params]
        opt.step()
        for p, was, should in zip(params, old, truth, strict=True):
            kept = opt.state.get(p, {})
            if "ema" in kept:  # of what is stored
                x = kept.get("master", p.detach()).double()
                average = was.get("ema", was.get("master", was["parameter"])).double()
                should["ema"] = 0.9 * average + 0.1 * x
            if "master" in kept:
                should["master"] = should["parameter"]
            for key, mine in {"parameter": p.detach(), **kept}.items():
                if key != "step":
                    size = should[key].abs() + was.get(key, mine).double().abs()
                    bound = allowed(should[key], mine.dtype, dtype, opt.options, size) + should["doubt"]
                    error = (mine.double() - should[key]).abs()
                    assert (error <= bound).all(), (seed, key, (error / unit(should[key], mine.dtype)).max())
    if dtype != torch.float64 or "state_dtype" not in engine:  # a kernel computes in one precision
        assert not opt._engine._plan.items


def allowed(x: torch.Tensor, stored: torch.dtype, dtype: torch.dtype, options: Options, size: torch.Tensor):
    """How far a number that should be x may be off: half a unit, by chance a whole one, and what arithmetic adds."""
    exact = dtype == torch.float64 and stored not in HALVES  # torch rounds to half precision by way of single
    eps = torch.finfo(torch.float64 if exact else torch.float32).eps
    terms = 4 if options.clip_norm is None or not exact else 32  # a norm is a sum of thousands
    share = 1.0 if options.chance and stored in HALVES else 0.5
    return share * unit(x, stored) + terms * eps * size


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_every_optimizer_in_every_precision(case, dtype):
    check(case, {}, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_every_optimizer_with_states_in_single_precision(case, dtype):
    check(case, {"state_dtype": "fp32"}, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("engine", OPTIONS, ids=str)
@pytest.mark.parametrize("case", USUAL, ids=lambda case: case[0])
def test_every_option_in_every_precision(case, engine, dtype):
    check(case, engine, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("engine", OPTIONS, ids=str)
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_every_option_of_every_optimizer_in_every_precision(case, engine, dtype):
    check(case, engine, dtype)
