"""What only a GPU can show: graphs, several devices, torch's own loss scaler, and that nothing waits for it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surefoot as sf

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

OPTIONS = {"clip_norm": 0.5, "skip_nonfinite": True, "ema": 0.9}


def network(device: str = "cuda", dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 300), nn.GELU(), nn.LayerNorm(300), nn.Linear(300, 7)).to(device, dtype)


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for seed in range(first, first + steps):
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))
        opt.zero_grad()
        p = next(model.parameters())
        model(x.to(p.device, p.dtype)).square().mean().backward()
        opt.step()


def same(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q.cpu(), **tolerance)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_training_goes_torchs_way(name):
    ours, theirs = network(dtype=torch.float64), network(dtype=torch.float64)
    opt = getattr(sf.optim, name)(ours.parameters(), lr=1e-2)
    train(ours, opt, 20)
    train(theirs, getattr(torch.optim, name)(theirs.parameters(), lr=1e-2), 20)
    assert opt._engine._plan.lanes
    same(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_does_not_wait(dtype):
    model = network(dtype=dtype)
    opt = sf.optim.AdamW(model.parameters(), lr=1e-3, rounding="stochastic", cautious=True, **OPTIONS)
    train(model, opt, 2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for group in opt.param_groups:
            group["lr"] /= 2
        opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert opt.last.stepped
    assert opt.last.grad_norm > 0


def test_a_captured_step_replays_as_eager_ones():
    """Also when eager steps come between replays, and the rate is a tensor that changes."""
    eager, captured = network(), network()
    rates = [torch.tensor(1e-2, device="cuda") for _ in range(2)]
    opts = [
        sf.optim.AdamW(model.parameters(), lr=rate, capturable=True, **OPTIONS)
        for model, rate in zip((eager, captured), rates, strict=True)
    ]
    x = torch.randn(32, 64, device="cuda")

    def step(model, opt):
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(captured, opts[1])
    torch.cuda.current_stream().wait_stream(side)
    for _ in range(3):
        step(eager, opts[0])
    graph = torch.cuda.CUDAGraph()
    opts[1].zero_grad()
    with torch.cuda.graph(graph):
        step(captured, opts[1])
    for i in range(6):
        x.copy_(torch.randn(32, 64))
        for rate in rates:
            rate *= 0.9
        step(eager, opts[0])
        if i == 3:
            step(captured, opts[1])  # with gradients elsewhere, and tables of its own
        else:
            graph.replay()
        same(eager, captured, rtol=1e-6, atol=1e-7)
    assert all(kept["step"].item() == 9 for kept in opts[1].state.values())


def test_a_first_step_is_not_captured():
    model = network()
    opt = sf.optim.AdamW(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(sf.UserError, match="take a few steps before"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        opt.step()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_under_torchs_loss_scaler(kind):
    ours, theirs = network(), network()
    opts = [
        sf.optim.AdamW(ours.parameters(), lr=1e-2, clip_norm=0.5),
        torch.optim.AdamW(theirs.parameters(), lr=1e-2),
    ]
    scalers = [torch.amp.GradScaler("cuda", init_scale=2.0**40, enabled=kind == torch.float16) for _ in opts]
    skipped = 0
    for _ in range(40):  # the scale is far too large at first
        x = torch.randn(32, 64, device="cuda")
        for model, opt, scaler in zip((ours, theirs), opts, scalers, strict=True):
            opt.zero_grad()
            with torch.autocast("cuda", kind):
                loss = model(x).float().square().mean()
            scaler.scale(loss).backward()
            if model is theirs:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(opt)
            scaler.update()
        skipped += opts[0].last.skipped
        same(ours, theirs, rtol=2e-2, atol=2e-3)
    assert (skipped > 5) == (kind == torch.float16)


def test_a_checkpoint_goes_from_device_to_device():
    model = network()
    opt = sf.optim.AdamW(model.parameters(), **OPTIONS)
    train(model, opt, 3)
    other = copy.deepcopy(model).cpu()
    twin = sf.optim.AdamW(other.parameters(), **OPTIONS)
    twin.load_state_dict(opt.state_dict())
    train(model, opt, 3, first=3)
    train(other, twin, 3, first=3)
    same(model, other, rtol=1e-4, atol=1e-5)


def test_parameters_on_several_devices_share_one_norm():
    """Two GPUs, or a GPU and the CPU, which must wait."""
    second = "cuda:1" if torch.cuda.device_count() > 1 else "cpu"
    ours, theirs = network(), network("cpu")
    ours[3].to(second)
    opts = [sf.optim.AdamW(model.parameters(), lr=1e-2, **OPTIONS) for model in (ours, theirs)]
    for _ in range(3):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.grad = torch.randn(q.shape)
            p.grad = q.grad.to(p.device)
        for opt in opts:
            opt.step()
        assert opts[0].last.clip_factor == pytest.approx(opts[1].last.clip_factor)
        same(ours, theirs, rtol=1e-5, atol=1e-6)
