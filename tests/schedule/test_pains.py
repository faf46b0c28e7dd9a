"""What hurts in torch's schedulers, by the numbers of the field's complaints, and ours without it."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

import surefoot as sf
from surefoot import schedule as s


def optimizer(lr: float = 1.0, module=torch.optim, name: str = "SGD", **options) -> torch.optim.Optimizer:
    return getattr(module, name)([torch.nn.Parameter(torch.ones(1))], lr=lr, **options)


def rate(opt: torch.optim.Optimizer) -> float:
    return float(opt.param_groups[0]["lr"])


def go(opt, sched, steps: int, **told) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(rate(opt))
        opt.step()
        sched.step(**told)
    return found


def test_p1_a_chain_is_resumed_anywhere():
    """P-1: SequentialLR with last_epoch gives 1.0 where the uninterrupted run gives 0.81."""
    shape = s.constant(0.1, 3) >> s.exponential(0.9)
    opt = optimizer()
    whole = go(opt, s.drive(opt, shape), 12)
    for k in range(12):
        fresh = optimizer()
        sched = s.drive(fresh, shape)
        sched.load_state_dict({"time": k})
        assert go(fresh, sched, 12 - k) == whole[k:]


def test_p2_no_order_is_warned_of_and_nothing_is_patched():
    """P-2: LRScheduler patches optimizer.step and warns, falsely with a loss scaler."""
    opt = optimizer()
    step = opt.step
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sched = s.drive(opt, s.cosine(4))
        sched.step()
        opt.step()
        sched.step()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        (p,) = opt.param_groups[0]["params"]
        for factor in (torch.inf, 1.0):  # with a first step that is skipped
            opt.zero_grad()
            (scaler.scale(p.sum()) * factor).backward()
            scaler.step(opt)
            scaler.update()
            sched.step()
    assert opt.step == step
    assert "step" not in vars(opt)


def test_p3_a_step_that_was_skipped_is_no_time():
    """P-3: after a skip of GradScaler torch's schedulers go on."""
    opt, theirs = optimizer(), optimizer()
    sched, scheduler = s.drive(opt, s.exponential(0.5)), lr_scheduler.ExponentialLR(theirs, 0.5)
    for each, clock in ((opt, sched), (theirs, scheduler)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        (p,) = each.param_groups[0]["params"]
        (scaler.scale(p.sum()) * torch.inf).backward()
        scaler.step(each)
        scaler.update()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clock.step()
    assert (rate(opt), rate(theirs)) == (1.0, 0.5)


def test_p4_building_after_loading_overwrites_nothing():
    """P-4: a LambdaLR that is built after optimizer.load_state_dict puts the rate back to its first value."""
    shape = s.function(lambda t: 0.5**t)
    opt = optimizer()
    sched = s.drive(opt, shape)
    go(opt, sched, 3)
    saved = copy.deepcopy((opt.state_dict(), sched.state_dict()))
    for order in ("optimizer first", "driver first", "built last"):
        fresh = optimizer()
        if order == "built last":
            fresh.load_state_dict(saved[0])
        again = s.drive(fresh, shape)
        if order == "driver first":
            again.load_state_dict(saved[1])
            fresh.load_state_dict(saved[0])
        else:
            fresh.load_state_dict(saved[0])
            again.load_state_dict(saved[1])
        assert rate(fresh) == 0.125, order


def test_p5_cosine_holds_its_floor():
    """P-5: CosineAnnealingLR rises again after T_max."""
    opt, theirs = optimizer(), optimizer()
    assert go(opt, s.drive(opt, s.cosine(5, floor=0.1)), 20)[5:] == [0.1] * 15
    assert go(theirs, lr_scheduler.CosineAnnealingLR(theirs, 5), 11)[10] == pytest.approx(1)


def test_p6_a_second_schedule_starts_anew():
    """P-6: a new scheduler on an optimizer whose rate has come to 0 is stuck there."""
    opt = optimizer()
    for _ in range(2):
        sched = s.drive(opt, s.cosine(5))
        assert go(opt, sched, 6)[0] == 1.0
        assert rate(opt) == 0.0


def test_p7_rates_in_tensors_do_not_drift():
    """P-7: 20,000 steps of ExponentialLR on an fp32 tensor are off by 3.3e-4, of LinearLR by 3.8e-5."""
    for shape in (s.exponential(0.9999), s.linear(0.001, 1, 20_000)):
        opt = optimizer(torch.tensor(1.0))
        go(opt, s.drive(opt, shape), 20_000)
        assert rate(opt) == pytest.approx(shape(20_000), rel=1e-7)


def test_p8_one_cycle_has_no_edges():
    """P-8: OneCycleLR divides by zero at short warm-ups, fails one step too late and overwrites betas."""
    with pytest.raises(ZeroDivisionError):
        lr_scheduler.OneCycleLR(optimizer(), 1.0, total_steps=10, pct_start=0.1)
    opt = optimizer(name="AdamW", betas=(0.9, 0.95))
    found = go(opt, s.drive(opt, s.one_cycle(9, rise=0.0)), 30)
    assert found[0] == 1.0
    assert set(found[9:]) == {4e-6}
    assert opt.param_groups[0]["betas"] == (0.9, 0.95)


def test_p9_plateaus_compose_and_add_up():
    """P-9: ReduceLROnPlateau with another scheduler: its reductions are forgotten."""
    opt = optimizer()
    sched = s.drive(opt, s.linear(1, 0.5, 8) * s.plateau(0.1, patience=0))
    found = go(opt, sched, 5, metric=1.0)
    assert found == pytest.approx([1, 0.9375, 0.0875, 0.008125, 0.00075])
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    go(opt, sched, 2, metric=1.0)
    assert opt.param_groups[1]["lr"] == pytest.approx(opt.param_groups[0]["lr"])


def test_p10_restarts_are_right_at_any_time():
    """P-10: CosineAnnealingWarmRestarts fails to resume, is wrong at high step counts and knows no lower peaks."""
    shape = s.cosine_restarts(10, stretch=2, height=0.5)
    begin, length, height = 0, 10, 1.0
    while begin < 10**9:
        assert shape(begin) == pytest.approx(height)
        assert shape(begin + length - 1e-6 * length) == pytest.approx(0, abs=1e-9)
        begin, length, height = begin + length, 2 * length, height / 2
    assert s.cosine_restarts(7)(7 * 10**8 + 3.5) == pytest.approx(0.5)


def test_p11_all_can_be_pickled_and_nothing_is_lost():
    """P-11: CyclicLR cannot be pickled; LambdaLR stores None for a lambda."""
    opt = optimizer(name="SGD", momentum=0.9)
    sched = s.drive(opt, s.cyclic(3, mode="triangular2"), momentum=s.cyclic(3, low=1, high=0.5))
    go(opt, sched, 4)
    again = pickle.loads(pickle.dumps(sched))
    assert again.schedules == sched.schedules
    assert go(again.optimizer, again, 20) == go(opt, sched, 20)
    named = s.drive(optimizer(), s.function(math.exp, 3))
    assert pickle.loads(pickle.dumps(named)).schedules == named.schedules


def test_p12_other_hyper_parameters_and_single_groups():
    """P-12: torch's schedulers drive the rate of the whole optimizer only."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1.0} for _ in range(2)]
    opt = sf.optim.SGD(groups, momentum=0.8, weight_decay=0.1)
    sched = s.drive(opt, {1: s.constant(0.5)}, weight_decay=s.linear(1, 0, 4), momentum={0: s.constant(0.25)})
    go(opt, sched, 2)
    told = [(group["lr"], group["weight_decay"], group["momentum"]) for group in opt.param_groups]
    assert told == [(1.0, 0.05, 0.2), (0.5, 0.05, 0.8)]


def test_p30_groups_added_later_are_driven():
    """P-30: torch's schedulers know the groups that were there when they were made."""
    opt = optimizer()
    sched = s.drive(opt, s.linear(1, 0, 4))
    go(opt, sched, 2)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 10.0})
    go(opt, sched, 1)
    assert [group["lr"] for group in opt.param_groups] == [0.25, 2.5]
