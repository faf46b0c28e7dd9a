"""Clip functions that learn: against the authors' code written out, by properties, in the engine, saved and loaded."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_options import same
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import surefoot as sf
from surefoot.optim import AdaGC, Clip, Norms, SpikeClip, ZClip

SIZES = st.floats(1e-12, 1e12)
EVERY = pytest.mark.parametrize("kind", [ZClip, AdaGC, SpikeClip])


def norms(**tensors: float) -> Norms:
    total = math.hypot(*tensors.values())
    return Norms(total, [total], tensors)


def random(number: int, seed: int = 0, spike: float = 30.0) -> list[Norms]:
    """Norms of two tensors over some steps, with a spike in one of them now and then."""
    generator = np.random.default_rng(seed)
    sizes = np.exp(0.3 * generator.standard_normal((number, 2))) * [1.0, 0.01]
    sizes[generator.random((number, 2)) < 0.1] *= spike
    return [norms(a=float(a), b=float(b)) for a, b in sizes]


# --- ZClip ---------------------------------------------------------------------------------------------------------


def zclip(total: list[float], alpha: float, threshold: float, warmup: int, max_norm: float) -> list[float]:
    """The authors' ZClip.step (zclip.py, mode zscore, adaptive_scaling): the norms after clipping."""
    buffer, mean, var, clipped = [], None, None, []
    for norm in total:
        if mean is None:
            buffer.append(norm)
            if len(buffer) == warmup:
                mean = sum(buffer) / warmup
                var = sum((x - mean) ** 2 for x in buffer) / warmup
            clipped.append(min(norm, max_norm))
            continue
        std = var**0.5
        z = (norm - mean) / (std + 1e-12)
        effective = mean + (threshold * std) / (z / threshold) if z > threshold else norm
        clipped.append(min(effective, max_norm))
        mean = alpha * mean + (1 - alpha) * effective
        var = alpha * var + (1 - alpha) * (effective - mean) ** 2
    return clipped


@pytest.mark.parametrize("options", [{}, {"alpha": 0.8, "threshold": 1.0, "warmup": 5}, {"max_norm": 1.5}], ids=str)
def test_zclip_is_the_authors(options):
    steps = random(200)
    clip = ZClip(**options)
    found = [clip(step) * step.total for step in steps]
    settings = {"alpha": 0.97, "threshold": 2.5, "warmup": 25, "max_norm": math.inf, **options}
    right = zclip([step.total for step in steps], **settings)
    assert found == pytest.approx(right, rel=1e-9)
    assert sum(a < 0.99 * b.total for a, b in zip(found, steps, strict=True)) > 10  # there was something to clip


@given(st.lists(SIZES, min_size=4, max_size=30))
@settings(deadline=None)
def test_zclip_only_ever_scales_down_and_never_below_the_mean(sizes):
    clip = ZClip(warmup=3)
    for i, size in enumerate(sizes):
        mean = clip.mean
        factor = clip(norms(a=size))
        assert 0 < factor <= 1
        assert i >= 3 or factor == 1
        assert factor == 1 or size * factor >= mean * (1 - 1e-9)


def test_the_farther_a_norm_stands_out_the_nearer_to_the_mean_it_is_cut():
    cut = []
    for size in (6.0, 10.0, 100.0, 1e6):
        clip = ZClip(warmup=4)
        for usual in (2.0, 4.0, 2.0, 4.0):
            clip(norms(a=usual))
        cut.append(clip(norms(a=size)) * size)
    assert cut == sorted(cut, reverse=True)
    assert cut == pytest.approx([3 + 6.25 / (size - 3) for size in (6.0, 10.0, 100.0, 1e6)])


# --- AdaGC ---------------------------------------------------------------------------------------------------------


def adagc(steps: list[Norms], ratio: float, beta: float, warmup: int, max_norm: float) -> list[dict[str, float]]:
    """The authors' AdaGC.clip_by_norm (Megatron patch): the norms after clipping."""
    state: dict[str, float] = {}
    clipped = []
    for i, step in enumerate(steps, 1):
        after = {}
        for name, norm in step.tensors.items():
            if i <= warmup:
                after[name] = norm * min(max_norm / (step.total + 1e-6), 1.0)
                state[name] = min(state.get(name, after[name]), after[name])
            else:
                average = state.setdefault(name, norm)
                after[name] = ratio * average if norm > ratio * average else norm
                state[name] = beta * average + (1 - beta) * after[name]
        clipped.append(after)
    return clipped


@pytest.mark.parametrize("options", [{}, {"ratio": 2.0, "beta": 0.5, "warmup": 7, "max_norm": 0.3}], ids=str)
def test_adagc_is_the_authors(options):
    steps = random(300)
    clip = AdaGC(**options)
    settings = {"ratio": 1.05, "beta": 0.98, "warmup": 100, "max_norm": 1.0, **options}
    for step, right in zip(steps, adagc(steps, **settings), strict=True):
        factors = clip(step)
        assert {name: norm * factors[name] for name, norm in step.tensors.items()} == pytest.approx(right, rel=1e-9)


def test_adagc_lets_a_late_parameter_start_from_its_own_norm():
    clip = AdaGC(warmup=2)
    for _ in range(5):
        clip(norms(a=1.0))
    assert clip(norms(a=1.0, late=50.0))["late"] == 1
    assert clip(norms(a=1.0, late=500.0))["late"] == pytest.approx(1.05 * 50 / 500)


def test_a_gradient_of_zero_does_not_hold_its_parameter_for_ever():
    """The first gradient of LoRA's A is zero, as its B is; the least norm of the warm-up must not be that."""
    clip = AdaGC(warmup=3)
    for size in (0.0, 0.5, 0.4, 0.4):
        factors = clip(norms(a=size, b=0.1))
    assert factors["a"] == 1
    clip = SpikeClip(warmup=2)
    for size in (0.0, 0.5, 0.4, 0.4):
        factors = clip(norms(a=size, b=0.1))
    assert factors["a"] == 1


# --- SpikeClip -----------------------------------------------------------------------------------------------------


def test_spike_clip_is_its_equation():
    """Against Adam's corrected second moment of the clipped norms."""
    threshold, beta, warmup = 9.0, 0.9, 5
    clip, seen = SpikeClip(threshold, beta, warmup), {"a": [], "b": []}
    cuts = 0
    for step in random(200):
        factors = clip(step)
        for name, norm in step.tensors.items():
            squares, limit = seen[name], norm
            if len(squares) >= warmup:
                weights = beta ** np.arange(len(squares))[::-1]
                limit = min(norm, math.sqrt(threshold * np.dot(weights, squares) / weights.sum()))
            assert norm * factors.get(name, 1.0) == pytest.approx(limit, rel=1e-9)
            cuts += limit < norm
            squares.append(limit**2)
    assert cuts > 10


@given(st.lists(SIZES, min_size=1, max_size=30), st.floats(1, 100))
@settings(deadline=None)
def test_spike_clip_lets_steady_norms_through(sizes, threshold):
    clip = SpikeClip(threshold, warmup=1)
    steady = SpikeClip(threshold, warmup=1)
    for size in sizes:
        assert all(0 < factor <= 1 for factor in clip(norms(a=size)).values())
        assert steady(norms(a=3.0)).get("a", 1.0) == pytest.approx(1.0)


# --- what they have in common --------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_says_nothing_is_not_learned_from(kind, bad):
    clip, twin = kind(warmup=3), kind(warmup=3)
    for i, step in enumerate(random(20)):
        if i % 4 == 1:
            before = clip.state_dict()
            answer = clip(norms(a=bad, b=0.0 if bad == 0 else 0.5))
            assert answer in (1.0, {})
            assert same(clip.state_dict(), before)
        assert clip(step) == twin(step)


@EVERY
@pytest.mark.parametrize("stop", [2, 5, 11])
def test_what_was_learned_goes_through_a_file(kind, stop):
    clip, steps = kind(warmup=5), random(30)
    for step in steps[:stop]:
        clip(step)
    file = io.BytesIO()
    torch.save(clip.state_dict(), file)
    file.seek(0)
    other = kind(warmup=5)
    other.load_state_dict(torch.load(file, weights_only=True))
    twins = [clip, other, pickle.loads(pickle.dumps(clip)), copy.deepcopy(clip)]
    for step in steps[stop:]:
        answers = [twin(step) for twin in twins]
        assert all(answer == answers[0] for answer in answers)
    assert all(same(twin.state_dict(), clip.state_dict()) for twin in twins)


@EVERY
def test_a_state_is_a_copy(kind):
    clip = kind(warmup=2)
    for step in random(5):
        clip(step)
    before = clip.state_dict()
    other = kind(warmup=2)
    other.load_state_dict(before)
    for step in random(5, seed=1):
        other(step)
    assert same(clip.state_dict(), before)


@EVERY
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(kind):
    clip = kind()
    clip(norms(a=1.0))
    before = clip.state_dict()
    for wrong in ({}, {**before, next(iter(before)): "x"}, dict.fromkeys(before)):
        with pytest.raises(sf.UserError, match=f"this is no state of {kind.__name__}"):
            clip.load_state_dict(wrong)
    assert same(clip.state_dict(), before)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (ZClip, {"alpha": 1}, "ZClip: alpha=1: it must be a number, from 0 to below 1"),
        (ZClip, {"alpha": -0.1}, "alpha=-0.1"),
        (ZClip, {"threshold": 0}, "threshold=0: it must be a number, above 0"),
        (ZClip, {"warmup": 1}, "warmup=1: it must be a whole number, 2 or more"),
        (ZClip, {"warmup": 2.5}, "warmup=2.5"),
        (ZClip, {"max_norm": 0}, "max_norm=0: it must be a number, above 0"),
        (AdaGC, {"ratio": 0.9}, "AdaGC: ratio=0.9: it must be a number, 1 or more"),
        (AdaGC, {"beta": "x"}, "beta='x'"),
        (AdaGC, {"warmup": True}, "warmup=True"),
        (AdaGC, {"max_norm": math.nan}, "max_norm=nan"),
        (SpikeClip, {"threshold": math.inf}, "SpikeClip: threshold=inf"),
        (SpikeClip, {"warmup": 0}, "warmup=0: it must be a whole number, 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(kind, options, words):
    with pytest.raises(sf.UserError) as error:
        kind(**options)
    assert words in str(error.value)


def test_numbers_of_numpy_do_not_get_into_the_state():
    clip = AdaGC(beta=np.float32(0.5), warmup=1)
    for step in random(3):
        clip(step)
    assert all(type(value) is float for value in clip.usual.values())


# --- in the engine -------------------------------------------------------------------------------------------------


def build(clip: object, named: bool = True, prefix: str = "") -> tuple[list[nn.Parameter], sf.optim.Optimizer]:
    params = [nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(2, 2, dtype=torch.float64))]
    given = [(prefix + name, p) for name, p in zip("ab", params, strict=True)] if named else params
    return params, sf.optim.SGD(given, lr=0.1, momentum=0.5, clip_norm=clip)


def give(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(params):
        size = 20.0 if (seed + i) % 5 == 4 else 1.0
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * size


def train(params: list[nn.Parameter], optimizer: sf.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        give(params, seed)
        optimizer.step()


@EVERY
@pytest.mark.parametrize("named", [True, False])
def test_the_engine_scales_each_gradient_by_its_factor(kind, named):
    clip, twin = kind(warmup=3), kind(warmup=3)
    params, optimizer = build(clip, named)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    reference = torch.optim.SGD(others, lr=0.1, momentum=0.5)
    names = ["a", "b"] if named else ["group 0, parameter 0", "group 0, parameter 1"]
    clipped = 0
    for seed in range(20):
        give(params, seed)
        sizes = {name: p.grad.norm().item() for name, p in zip(names, params, strict=True)}
        answer = twin(norms(**sizes))
        for name, p, q in zip(names, params, others, strict=True):
            factor = answer.get(name, 1.0) if isinstance(answer, dict) else answer
            q.grad = p.grad * factor
            clipped += factor < 1
        optimizer.step()
        reference.step()
        torch.testing.assert_close(params, others, rtol=1e-9, atol=1e-12)
    assert clipped > 2


@EVERY
@pytest.mark.parametrize("stop", [2, 6, 9])
def test_training_resumes_to_the_last_bit(kind, stop):
    params, optimizer = build(kind(warmup=4))
    train(params, optimizer, range(stop))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    weights = [p.detach().clone() for p in params]
    others, other = build(Clip(kind(warmup=4)), prefix="_orig_mod.")
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        for p, weight in zip(others, weights, strict=True):
            p.copy_(weight)
    for side, o in ((params, optimizer), (others, other)):
        train(side, o, range(stop, 16))
    assert same([p.detach() for p in others], [p.detach() for p in params])
    assert same(other.state_dict()["clip"], optimizer.state_dict()["clip"])


@EVERY
def test_copies_of_an_optimizer_learn_by_themselves(kind):
    params, optimizer = build(kind(warmup=4))
    train(params, optimizer, range(6))
    pairs = [copy.deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer))), (params, optimizer)]
    for side, o in pairs:
        train(side, o, range(6, 14))
        assert same([p.detach() for p in side], [p.detach() for p in pairs[0][0]])


def test_a_checkpoint_of_another_kind_or_of_none_leaves_it_as_it_is():
    params, optimizer = build(ZClip(warmup=2))
    train(params, optimizer, range(5))
    saved = optimizer.state_dict()
    assert set(saved["clip"]) == {"ZClip"}
    clip = AdaGC()
    others, other = build(clip)
    train(others, other, range(2))
    before = clip.state_dict()
    for checkpoint in (saved, build(None)[1].state_dict(), build(1.0)[1].state_dict()):
        other.load_state_dict(checkpoint)
        assert same(clip.state_dict(), before)
    build(1.0)[1].load_state_dict(saved)
    for plain in (None, 1.0, lambda norms: 1.0):
        assert "clip" not in build(plain)[1].state_dict()


def test_a_damaged_state_is_refused_before_anything_changes():
    params, optimizer = build(ZClip(warmup=2))
    train(params, optimizer, range(5))
    before, saved = optimizer.state_dict(), optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 7.0
    saved["clip"]["ZClip"]["mean"] = "x"
    with pytest.raises(sf.UserError, match="this is no state of ZClip: its mean is 'x'"):
        optimizer.load_state_dict(saved)
    assert same(optimizer.state_dict(), before)
    saved = optimizer.state_dict()
    saved["clip"]["ZClip"]["mean"] = 7.0
    saved["param_groups"][0]["lr"] = -1.0
    with pytest.raises(sf.UserError, match="lr=-1"):
        optimizer.load_state_dict(saved)
    assert same(optimizer.state_dict(), before)


def test_torchs_format_holds_nothing_of_it():
    params, optimizer = build(ZClip(warmup=2))
    train(params, optimizer, range(5))
    saved = optimizer.state_dict(format="torch")
    assert saved.keys() == {"state", "param_groups"}
    torch.optim.SGD([nn.Parameter(p.detach().clone()) for p in params]).load_state_dict(saved)


@EVERY
def test_torch_may_probe_for_states(kind):
    """With a step whose gradients are zero: that must not be taken for what is usual."""
    model = nn.Linear(2, 2)
    clip = kind()
    optimizer = sf.optim.AdamW(model.parameters(), clip_norm=clip)
    before = clip.state_dict()
    get_optimizer_state_dict(model, optimizer)
    assert same(clip.state_dict(), before)


@EVERY
def test_a_step_that_is_skipped_teaches_nothing(kind):
    clip = kind(warmup=2)
    params = [nn.Parameter(torch.ones(3))]
    optimizer = sf.optim.SGD(params, lr=0.1, clip_norm=clip, skip_nonfinite=True)
    params[0].grad = torch.ones(3)
    optimizer.step()
    before = clip.state_dict()
    params[0].grad = torch.tensor([1.0, math.nan, 1.0])
    optimizer.step()
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.ones(())  # as GradScaler says it
    params[0].grad = torch.ones(3)
    optimizer.step()
    assert optimizer.last.skipped
    assert same(clip.state_dict(), before)


def test_a_clip_function_of_the_users_own_is_saved_if_it_can_be():
    class Half:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, norms: Norms) -> float:
            self.calls += 1
            return 0.5

        def state_dict(self) -> dict:
            return {"calls": self.calls}

        def load_state_dict(self, state: dict) -> None:
            self.calls = state["calls"]

    half = Half()
    params, optimizer = build(half)
    train(params, optimizer, range(3))
    other = Half()
    build(other)[1].load_state_dict(optimizer.state_dict())
    assert other.calls == half.calls == 3
