"""Clip functions that learn: what they let through, that they resume, and that the engine does as they say."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

import surefoot as sf
from surefoot.optim import AdaGC, Norms, SpikeClip, ZClip

MAKERS = {"ZClip": lambda: ZClip(warmup=5), "AdaGC": lambda: AdaGC(warmup=5), "SpikeClip": lambda: SpikeClip(warmup=5)}


def norms(**tensors: float) -> Norms:
    total = math.sqrt(sum(norm**2 for norm in tensors.values()))
    return Norms(total, [total], tensors)


def test_zclip_is_the_papers():
    """Written once more, with lists."""
    clip, known, mean, variance = ZClip(alpha=0.9, threshold=2.0, warmup=10), [], 0.0, 0.0
    rng = np.random.default_rng(0)
    for t in range(200):
        norm = float(abs(rng.normal(1, 0.1)) * (8 if t % 37 == 36 else 1))
        factor = clip(norms(a=norm))
        if t < 10:
            known.append(norm)
            mean, variance = np.mean(known), np.var(known)
            assert factor == 1
            continue
        sigma = variance**0.5
        z = (norm - mean) / sigma
        most = mean + 2.0**2 / z * sigma if z > 2 else norm
        assert factor == pytest.approx(most / norm)
        mean = 0.9 * mean + 0.1 * most
        variance = 0.9 * variance + 0.1 * (most - mean) ** 2
    assert clip(norms(a=100.0)) < 0.1


def test_adagc_goes_by_each_parameters_own_norm():
    clip = AdaGC(ratio=1.1, beta=0.9, warmup=3, max_norm=1.0)
    for _ in range(3):
        factors = clip(norms(a=3.0, b=4.0))
        assert factors == pytest.approx({"a": 0.2, "b": 0.2})
    assert clip.usual == pytest.approx({"a": 0.6, "b": 0.8})
    factors = clip(norms(a=6.0, b=0.4))
    assert factors == pytest.approx({"a": 1.1 * 0.6 / 6, "b": 1})
    assert clip.usual == pytest.approx({"a": 0.9 * 0.6 + 0.1 * 0.66, "b": 0.9 * 0.8 + 0.1 * 0.4})


def test_spikes_are_cut():
    clip = SpikeClip(threshold=4, beta=0.5, warmup=2)
    for _ in range(5):
        assert clip(norms(a=1.0)) == {"a": 1}
    assert clip(norms(a=10.0)) == pytest.approx({"a": 0.2})
    assert clip.average["a"] == pytest.approx(0.5 + 0.5 * 4)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_not_finite_teaches_nothing(make):
    clip = make()
    for _ in range(8):
        clip(norms(a=1.0))
    before = clip.state_dict()
    clip(norms(a=math.nan))
    clip(norms(a=math.inf))
    assert clip.state_dict() == before
    clip(norms(a=0.0))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_engine_does_as_they_say_and_checkpoints_hold_what_they_know(make):
    def side():
        torch.manual_seed(0)
        params = [("a", nn.Parameter(torch.randn(3))), ("b", nn.Parameter(torch.randn(2, 2)))]
        return params, sf.optim.SGD(params, lr=0.1, clip_norm=make())

    def step(params, opt, t):
        torch.manual_seed(t)
        before = [p.detach().clone() for _, p in params]
        for _, p in params:
            p.grad = torch.randn_like(p) * (50 if t % 7 == 6 else 1)
        opt.step()
        return [(old - p.detach()) / 0.1 / p.grad for old, (_, p) in zip(before, params, strict=True)]

    (params, opt), (others, again) = side(), side()
    for t in range(10):
        factors = step(params, opt, t)
        assert all((f - f.mean()).abs().max() < 1e-3 for f in factors)  # one factor for each parameter
        assert min(f.mean().item() for f in factors) == pytest.approx(opt.last.clip_factor, rel=1e-3)
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    for (_, p), (_, q) in zip(params, others, strict=True):
        q.data.copy_(p.data)
    for t in range(10, 24):
        step(params, opt, t)
        step(others, again, t)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(params, others, strict=True))
    assert "clip" not in opt.state_dict(format="torch")
    assert min(f.mean().item() for f in step(params, opt, 27)) < 0.5  # a spike


def test_a_function_may_name_parameters():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    wrong = ({"c": 1.0}, "unknown parameter"), ({"a": -1.0}, "from 0 to below infinity"), ({"a": "x"}, "numbers")
    for factors, words in wrong:
        opt = sf.optim.SGD([("a", p), ("b", q)], lr=1.0, clip_norm=lambda _, factors=factors: factors)
        p.grad, q.grad = torch.ones(2), torch.ones(2)
        with pytest.raises(sf.UserError, match=words):
            opt.step()
    assert torch.equal(p, torch.ones(2))
    opt = sf.optim.SGD([("a", p), ("b", q)], lr=1.0, clip_norm=lambda _: {"b": 0.25})
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    opt.step()
    assert torch.equal(p, torch.zeros(2))
    assert torch.equal(q, torch.full((2,), 0.75))
    assert opt.last.clip_factor == 0.25


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ZClip(alpha=2), "ZClip: alpha=2"),
        (lambda: AdaGC(beta="a"), "AdaGC: beta='a'"),
        (lambda: SpikeClip(0.5), "threshold=0.5"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(sf.UserError, match=words):
        make()
    with pytest.raises(sf.UserError, match="no state of ZClip"):
        ZClip().load_state_dict({"usual": {}})
