"""Prodigy's estimate of the rate: one for all groups, kept, resumed, and never waited for."""

from __future__ import annotations

import copy
import math
import pickle
from contextlib import nullcontext

import processes
import pytest
import torch
from backends import on_gpu, reference_only
from torch import Tensor, nn

import surefoot as sf
from surefoot.engine import gpu

RUNNING = ("d", "d_max", "d_numerator")


def pair() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(5))]


def two_groups(params: list, **options) -> sf.optim.Prodigy:
    return sf.optim.Prodigy([{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "weight_decay": 0.1}], **options)


def steps(params: list, opt: torch.optim.Optimizer, begin: int, end: int) -> None:
    for t in range(begin, end):
        torch.manual_seed(t)
        for p in params:
            p.grad = p.detach() + 0.3 * torch.randn_like(p)
        opt.step()


def running(opt: torch.optim.Optimizer) -> list[tuple[float, ...]]:
    return [tuple(float(group[name]) for name in RUNNING) for group in opt.param_groups]


def test_the_rate_grows_and_is_the_same_in_all_groups():
    params = pair()
    opt = two_groups(params)
    seen = []
    for t in range(40):
        steps(params, opt, t, t + 1)
        assert running(opt)[0] == running(opt)[1]
        seen.append(opt.param_groups[0]["d"])
    assert seen == sorted(seen)
    assert seen[0] == 1e-6
    assert 1e-3 < seen[-1] < 1


@pytest.mark.parametrize("clone", ["state_dict", "file", "deepcopy", "pickle"])
def test_training_goes_on_bit_for_bit(clone, tmp_path):
    params, others = pair(), pair()
    opt, other = two_groups(params), two_groups(others, d0=1e-5)
    steps(params, opt, 0, 10)
    if clone in ("deepcopy", "pickle"):
        other = copy.deepcopy(opt) if clone == "deepcopy" else pickle.loads(pickle.dumps(opt))
        others = [p for group in other.param_groups for p in group["params"]]
    else:
        state = opt.state_dict()
        if clone == "file":
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt")
        other.load_state_dict(state)
        with torch.no_grad():
            for p, q in zip(params, others, strict=True):
                q.copy_(p)
    assert running(other) == running(opt)
    steps(params, opt, 10, 20)
    steps(others, other, 10, 20)
    assert running(other) == running(opt)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("where", ["kernels", "torch operations"])
def test_a_later_group_takes_over_the_rate(where):
    with reference_only() if where == "torch operations" else nullcontext():
        params = pair()
        opt = sf.optim.Prodigy(params[:1])
        steps(params[:1], opt, 0, 30)
        d = opt.param_groups[0]["d"]
        opt.add_param_group({"params": params[1:], "lr": 0.5})
        assert running(opt)[0] == running(opt)[1]
        before = params[1].detach().clone()
        steps(params, opt, 30, 31)
        assert running(opt)[0] == running(opt)[1]
        assert d <= opt.param_groups[1]["d"]
        assert (params[1] - before).abs().max() > 1e-2 * d  # and not of d0
        assert torch.equal(opt.state[params[1]]["p0"], before)


def test_a_step_that_is_skipped_teaches_nothing():
    params = pair()
    opt = two_groups(params, skip_nonfinite=True)
    steps(params, opt, 0, 10)
    before = running(opt)
    params[0].grad[0, 0] = math.nan
    opt.step()
    assert opt.last.skipped
    assert running(opt) == before


def test_without_a_rate_or_a_gradient_nothing_is_learnt():
    params = pair()
    opt = sf.optim.Prodigy(params, lr=0.0)
    before = [p.detach().clone() for p in params]
    steps(params, opt, 0, 3)
    assert running(opt) == [(1e-6, 1e-6, 0.0)]
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.param_groups[0]["lr"] = 1.0
    opt.step()
    assert running(opt) == [(1e-6, 1e-6, 0.0)]
    opt.zero_grad()
    opt.step()
    assert running(opt) == [(1e-6, 1e-6, 0.0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d0": 0.0}, "d0=0.0: it must be above 0"),
        ({"d_coef": 0}, "d_coef=0: it must be above 0"),
        ({"beta3": 1.0}, "beta3=1.0: it must be below 1"),
        ({"beta3": -0.1}, "beta3=-0.1: it must be 0 or more"),
        ({"betas": 0.9}, "betas=0.9: it must be two numbers"),
        ({"growth_rate": 0.5}, "growth_rate=0.5: it must be 1 or more"),
        ({"safeguard_warmup": 1}, "safeguard_warmup=1: it must be True or False"),
    ],
)
def test_bad_hyperparameters_are_refused(options, words):
    with pytest.raises(sf.UserError) as error:
        sf.optim.Prodigy(pair(), **options)
    assert words in str(error.value)


def test_what_makes_the_estimate_is_one_for_all_groups():
    params = pair()
    with pytest.raises(sf.UserError, match=r"d_coef=2\.0: it is 1\.0, the same for all groups"):
        sf.optim.Prodigy([{"params": params[:1]}, {"params": params[1:], "d_coef": 2.0}])
    with pytest.raises(sf.UserError, match=r"d0=0\.1: it is 1e-06"):
        sf.optim.Prodigy([{"params": params, "d0": 0.1}])
    opt = sf.optim.Prodigy([{"params": params[:1]}, {"params": params[1:], "d_coef": 2.0}], d_coef=2.0)
    assert len(opt.param_groups) == 2


def test_it_cannot_step_in_the_backward_pass():
    with pytest.raises(sf.UserError, match="Prodigy learns its rate from all gradients"):
        sf.optim.Prodigy(pair()).step_in_backward()


def test_a_gpu_is_not_waited_for(monkeypatch):
    with on_gpu() as device:
        params = [nn.Parameter(p.detach().to(device)) for p in pair()]
        opt = two_groups(params, clip_norm=10.0, skip_nonfinite=True)
        steps(params, opt, 0, 3)
        assert all(isinstance(opt.param_groups[1][name], Tensor) for name in RUNNING)

        def waits(*_):
            raise AssertionError("a step has read from the device")

        for p in params:
            p.grad = p.detach().clone()
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
                patch.setattr(Tensor, name, waits)
            opt.step()
        with monkeypatch.context() as patch:  # a captured step must find at each replay what the last one left
            patch.setattr(gpu, "capturing", lambda: True)
            before = [group["d"] for group in opt.param_groups]
            steps(params, opt, 4, 6)
            assert all(group["d"] is d for group, d in zip(opt.param_groups, before, strict=True))

    others = pair()
    other = two_groups(others, clip_norm=10.0, skip_nonfinite=True)
    steps(others, other, 0, 3)
    for p in others:
        p.grad = p.detach().clone()
    other.step()
    steps(others, other, 4, 6)
    assert running(opt)[1] == pytest.approx(running(other)[0], rel=1e-3)
    other.load_state_dict(opt.state_dict())  # from the device to here
    steps(others, other, 6, 7)
    assert running(other)[0] == running(other)[1]


def sharded(rank, world, folder):
    """Two processes with half of each parameter find the rate that one finds, compiled or not."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    for lr in (1.0, torch.tensor(1.0)):  # tensors are for the reference backend
        whole = pair()
        parts = [nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in whole]
        opts = [sf.optim.Prodigy(params, lr=lr) for params in (whole, parts)]
        for t in range(10):
            torch.manual_seed(t)
            for p, q in zip(whole, parts, strict=True):
                p.grad = p.detach() + 0.3 * torch.randn_like(p)
                q.grad = distribute_tensor(p.grad, mesh, [Shard(0)])
            for opt in opts:
                opt.step()
        assert running(opts[0])[0] == pytest.approx(running(opts[1])[0], rel=1e-5)
        assert running(opts[1])[0][0] > 1e-6
        for p, q in zip(whole, parts, strict=True):
            torch.testing.assert_close(p.detach(), q.full_tensor().detach(), rtol=1e-5, atol=1e-7)


def test_shards_find_the_rate_together(tmp_path):
    processes.run(sharded, tmp_path)
