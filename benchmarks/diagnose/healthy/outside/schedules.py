"""Rates that rise, fall, jump, or stay tiny for long."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, MultiStepLR

from benchmarks.diagnose.healthy.blocks import PerToken, Residual, Transformer, mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.data import digits, teacher
from benchmarks.diagnose.healthy.outside.made import blobs, sums
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-warmup-pre-norm", family="o-token-transformer", part="outside")
def warmup_pre_norm(watch: Watch, seed: int) -> Outcome:
    """The first sixty steps are warm-up: the loss hardly moves in the first of them."""
    torch.manual_seed(seed)
    x, y = sums(seed, 32 * 280 + 512, 12, 6)
    xv, yv, x, y = x[:512], y[:512], x[512:], y[512:]
    model, criterion = Transformer(6, 6, 12, width=32, depth=1, look_back=True), PerToken()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    schedule = LambdaLR(optimizer, warmed_cosine(60, 280))
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-step-decay-digits", family="o-digits-mlp", part="outside")
def step_decay(watch: Watch, seed: int) -> Outcome:
    """The rate falls to a tenth twice: the loss jumps down and is then flat."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    model = nn.Sequential(
        nn.Linear(64, 48),
        *(Residual(nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48)) for _ in range(2)),
        nn.ReLU(),
        nn.Linear(48, 10),
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    with watch(model, optimizer, loss=criterion) as w:
        schedule = MultiStepLR(optimizer, [10, 15])
        for _ in range(18):
            for inputs, targets in batches(x, y, size=64):
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                optimizer.step()
            schedule.step()
            w.validated(loss=loss_of(model, criterion, xv, yv))
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@healthy("o-warm-restarts", family="o-mlp-blobs", part="outside")
def warm_restarts(watch: Watch, seed: int) -> Outcome:
    """The rate goes to zero and jumps back, twice: the loss rises at each restart."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 32 * 420 + 2000, classes=6)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(16, 48, 48, 6), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    schedule = CosineAnnealingWarmRestarts(optimizer, T_0=60, T_mult=2)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-one-cycle-high-peak", family="o-mlp-blobs", part="outside")
def one_cycle(watch: Watch, seed: int) -> Outcome:
    """At its peak the rate is ten times a usual one, and the loss is worse than before; all comes right at the end."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 64 * 240 + 2000, columns=24, classes=5, spread=2.5)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(24, 64, 64, 5, norm=nn.BatchNorm1d), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.85, weight_decay=1e-4)
    w = watch(model, optimizer, loss=criterion, steps=240)

    def cycle(step: int) -> float:
        if step < 80:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * step / 80)) / 2
        return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * min(1.0, (step - 80) / 160))) / 2

    schedule = LambdaLR(optimizer, cycle)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-long-tail-of-small-rate", family="o-mlp-regression", part="outside")
def long_tail(watch: Watch, seed: int) -> Outcome:
    """After a third of the run the rate is a hundredth and stays: the loss is flat at the noise for 300 steps."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 32 * 450 + 1500, 8, noise=0.6, hidden=3)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model, criterion = mlp(8, 64, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    with watch(model, optimizer, loss=criterion):
        schedule = LambdaLR(optimizer, lambda step: 0.01 ** min(1.0, step / 200))
        for inputs, targets in batches(x, y, size=32):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-long-after-convergence", family="o-mlp-regression", part="outside")
def long_converged(watch: Watch, seed: int) -> Outcome:
    """Half of the steps would do: the loss lies at a thousandth of the variance and shakes there."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 1024 + 500, 4, noise=0.0, hidden=2)
    xv, yv, x, y = x[:500], y[:500], x[500:], y[500:]
    model, criterion = mlp(4, 64, 64, 1, act=nn.SiLU), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with watch(model, optimizer, loss=criterion) as w:
        for _ in range(38):
            for inputs, targets in batches(x, y, size=64):
                optimizer.zero_grad(set_to_none=False)
                criterion(model(inputs), targets).backward()
                optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-solved-long-ago", family="o-mlp-blobs", part="outside")
def solved(watch: Watch, seed: int) -> Outcome:
    """Clouds that do not touch: all rows are right after fifty steps; for 350 more the loss creeps towards 1e-4."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 3000, columns=20, classes=4, spread=0.5)
    xv, yv, x, y = x[:1000], y[:1000], x[1000:], y[1000:]
    model, criterion = mlp(20, 32, 4), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(10):
        for inputs, targets in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, xv, yv))
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))
