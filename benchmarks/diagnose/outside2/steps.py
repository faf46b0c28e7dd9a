"""Steps that are not taken, have no effect, go the wrong way, or come too small by a scale."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 sharpness-aware step undone",
    family="moons",
    causes="step-without-effect",
    symptoms="loss-not-decreasing plateau no-op-step",
)
def sharpness_aware_undone(watch: Watch, seed: int, mended: bool) -> float:
    """Weights are saved, moved uphill for a second gradient, and put back - after the optimizer's step, not before."""
    torch.manual_seed(seed)
    data = parts.moons()
    model = parts.mlp(2, 32, 32, 2)
    params = list(model.parameters())
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)

    def restore(saved: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for p, old in zip(params, saved, strict=True):
                p.copy_(old)

    for _ in range(3):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            saved = [p.detach().clone() for p in params]
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in params]).norm() + 1e-12
                for p in params:
                    p += 0.02 * p.grad / norm
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            if mended:
                restore(saved)
                optimizer.step()
            else:
                optimizer.step()
                restore(saved)
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 averaged weights loaded back after every step",
    family="beats",
    causes="step-without-effect",
    symptoms="slow-convergence loss-not-decreasing plateau no-op-step",
)
def average_loaded_back(watch: Watch, seed: int, mended: bool) -> float:
    """The moving average is meant for evaluation, but the live model is overwritten with it at each step."""
    torch.manual_seed(seed)
    data = parts.beats()
    model = parts.Beat()
    average = copy.deepcopy(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1e-3)
                    if not mended:
                        fast.copy_(slow)
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 clip by value under a GradScaler",
    family="demand",
    causes="scaled-clip",
    symptoms="loss-not-decreasing plateau slow-convergence vanishing-gradient no-op-step",
)
def clip_value_scaled(watch: Watch, seed: int, mended: bool) -> float:
    """clip_grad_value_ between scaler.scale(loss).backward() and scaler.step: 0.5 is 8e-6 once the scale is off."""
    torch.manual_seed(seed)
    data = parts.demand()
    model = parts.Forecaster(24, nn.GRU)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(x)
            scaler.scale(criterion(out.float(), y)).backward()
            if mended:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_value_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 more batches to gather than an epoch has",
    family="graphs",
    causes="not-stepped",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def accumulation_never_full(watch: Watch, seed: int, mended: bool) -> float:
    """Steps each 64 batches, counted within an epoch of 37, and cleared when the epoch begins: no step is taken."""
    torch.manual_seed(seed)
    a, x, y, n = parts.graphs()
    model = parts.mlp(48, 64, 1)
    rows = torch.cat([(a @ x) / a.sum(-1, keepdim=True)], -1).flatten(1)
    gather = 2 if mended else 64
    criterion = nn.HuberLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8):
        optimizer.zero_grad()
        for i, (xb, yb) in enumerate(parts.loader(rows[:n], y[:n, None])):
            (criterion(model(xb), yb) / gather).backward()
            if (i + 1) % gather == 0:
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(rows[n:]), y[n:, None]).item())
        model.train()
    w.close()
    return parts.score(model, criterion, rows[n:], y[n:, None])


@faulty(
    "2 linear decay that goes below zero",
    family="churn",
    causes="sign-flipped schedule-too-fast",
    symptoms="diverging exploding-gradient loss-not-decreasing",
)
def rate_below_zero(watch: Watch, seed: int, mended: bool) -> float:
    """`1 - epoch / 4` without a floor in a run of ten epochs: from the fifth on the step goes up the loss."""
    torch.manual_seed(seed)
    data = parts.churn()
    model = parts.mlp(20, 64, 4)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = watch(model, optimizer, loss=criterion)
    floor = 0.1 if mended else -100.0
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: max(floor, 1 - epoch / 4))
    for _ in range(10):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        scheduler.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 own loss scaler that never backs off",
    family="spectra",
    causes="loss-scale step-without-effect",
    symptoms="no-op-step non-finite loss-not-decreasing plateau",
)
def scaler_never_backs_off(watch: Watch, seed: int, mended: bool) -> float:
    """Half precision, a scale of 2**24, and steps with infinite gradients are skipped - but the scale is kept."""
    torch.manual_seed(seed)
    data = parts.spectra()
    model = parts.mlp(48, 32, 8, 32, 48)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    scale = 2.0**24
    w = watch(model, optimizer)
    for _ in range(5):
        for x, y in parts.loader(data.x, data.y):
            with torch.autocast("cpu", dtype=torch.float16):
                out = model(x)
            loss = F.mse_loss(out.float(), y)
            w.observe(loss=loss, outputs=out, targets=y, inputs=x)
            optimizer.zero_grad()
            (loss * scale).backward()
            grads = [p.grad for p in model.parameters()]
            if not all(bool(g.isfinite().all()) for g in grads):
                scale = scale / 2 if mended else scale
                continue
            for g in grads:
                g.div_(scale)
            optimizer.step()
    w.close()
    return parts.score(model, nn.MSELoss(), data.xv, data.yv)
