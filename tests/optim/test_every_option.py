"""Every optimizer takes every option in every precision, and its kernels do what torch's operations do with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from backends import reference_only
from cases import CASES, MORE_CASES
from test_rounding import HALVES, unit
from torch import nn

import surefoot as sf

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "norm": {"clip_norm": 1.0},
    "largest": {"clip_norm": sf.optim.Clip(0.5, norm_type=float("inf"))},
    "AGC": {"clip_norm": sf.optim.AGC(0.1)},
    "AdaGC": {"clip_norm": sf.optim.AdaGC(warmup=2)},
    "value": {"clip_value": 0.8},
    "skip": {"skip_nonfinite": True},
    "clear": {"zero_grad_in_step": True},
    "centralize": {"centralize": True},
    "cautious": {"cautious": True},
    "ema": {"ema": 0.9},
    "stochastic": {"rounding": "stochastic"},
    "master": {"master_weights": True},
    "bf16": {"state_dtype": "bf16"},
    "fp16": {"state_dtype": "fp16"},
    "fp32": {"state_dtype": "fp32"},
    "8bit": {"state_dtype": "8bit"},
}
TOGETHER = {
    "clipped, cautious, averaged, cleared": (
        {**OPTIONS["norm"], **OPTIONS["cautious"], **OPTIONS["ema"], **OPTIONS["clear"], **OPTIONS["skip"]},
        torch.float32,
    ),
    "half precision by chance, wide states": ({**OPTIONS["stochastic"], **OPTIONS["fp32"]}, torch.bfloat16),
    "master copies, 8 bits": ({**OPTIONS["master"], **OPTIONS["8bit"]}, torch.float16),
}
FIRST = {name: each[0] for name, each in {**CASES, **MORE_CASES}.items()}


def check(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Three steps, each from the same numbers on both sides."""
    torch.manual_seed(0)
    spectral = name in ("SOAP", "Shampoo")  # eigenvectors: the last bit of a gradient may turn them
    shapes = [(70, 70), (4, 6), (4, 3, 2, 2)] + ([] if name == "Muon" else [(9,), ()])
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    if name.startswith("ScheduleFree"):
        options = {key: value for key, value in options.items() if key not in ("ema", "cautious")}  # it refuses these
    opt = getattr(sf.optim, name)(params, **{**FIRST[name], **copy.deepcopy(options)})
    for seed in range(3):
        torch.manual_seed(seed)
        before = [p.detach().clone().double() for p in params]
        other = copy.deepcopy(opt)
        twins = other.param_groups[0]["params"]
        for p, q in zip(params, twins, strict=True):  # no gradient is near zero, and few go with the decay
            p.grad = ((torch.rand(p.shape) + 0.5) * -p.detach().sign().float()).to(dtype)
            q.grad = p.grad.clone()
        opt.step()
        with reference_only():
            other.step()
        assert other._engine._plan.items
        assert not other._engine._plan.lanes
        for p, q, was in zip(params, twins, before, strict=True):
            sums = spectral or "centralize" in options  # what cancels in them is large
            agree(
                "the parameter", p.detach(), q.detach(), was, sums, 1e7 if spectral and dtype == torch.float64 else 64
            )
            for key, mine in opt.state[p].items():
                if isinstance(mine, torch.Tensor) and not spectral:
                    agree(key, mine, other.state[q][key], torch.zeros(()), sums or key == "exp_avg_diff")
        if "zero_grad_in_step" in options:
            assert not any(p.grad.any() for p in params)
    assert (params[0].detach().double() - before[0]).abs().max() > 0
    if dtype != torch.float64 and "8bit" not in str(options) and "centralize" not in options:
        assert not opt._engine._plan.items  # kernels took them


def agree(what: str, a: torch.Tensor, b: torch.Tensor, was: torch.Tensor, sums: bool, units: float = 64) -> None:
    """Up to a unit of what is stored, since the last bit of what is rounded may differ, and what arithmetic adds."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape), what
    eps = torch.finfo(torch.float64 if a.dtype == torch.float64 else torch.float32).eps
    one = unit(b.double(), a.dtype) if a.dtype in HALVES else float(a.dtype == torch.int8)
    size = b.double().abs() + was.abs()
    bound = units * eps * (size.max() if sums and size.numel() else size) + one
    error = (a.double() - b.double()).abs()
    assert (error <= bound).all(), (what, error.max(), b.double().abs().max())


@pytest.mark.parametrize("bundle", TOGETHER)
@pytest.mark.parametrize("name", FIRST)
def test_every_optimizer_takes_options(name, bundle):
    check(name, *TOGETHER[bundle])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", FIRST)
def test_every_optimizer_takes_every_option_in_every_precision(name, option, dtype):
    check(name, OPTIONS[option], dtype)
