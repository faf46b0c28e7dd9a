"""Loops that are not forward, backward, step: several optimizers, micro-batches, scalers, second passes."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import Recurrent, mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance
from benchmarks.diagnose.healthy.data import digits, spirals, teacher, waves
from benchmarks.diagnose.healthy.outside.made import blobs, flipped
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-gradients-gathered", family="o-mlp-blobs", part="outside")
def gathered(watch: Watch, seed: int) -> Outcome:
    """Four micro-batches of eight to a step, each loss divided by four."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 32 * 250 + 2000, classes=5)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(16, 48, 5, norm=nn.LayerNorm), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for micro, (inputs, targets) in enumerate(batches(x, y, size=8)):
        (criterion(model(inputs), targets) / 4).backward()
        if micro % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-bfloat16-autocast", family="o-digits-mlp", part="outside")
def bfloat16(watch: Watch, seed: int) -> Outcome:
    """Matrix products in bfloat16, weights in float32; dropout; a fifth of the labels of training are wrong."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    y, yv = flipped(y, 0.2, 1, 10), flipped(yv, 0.2, 2, 10)
    model, criterion = mlp(64, 48, 10, drop=0.3), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * 22)
    for _ in range(8):
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            schedule.step()
        w.validated(loss=loss_of(model, criterion, xv, yv))
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-scaler-skips-at-first", family="o-mlp-regression", part="outside")
def scaler(watch: Watch, seed: int) -> Outcome:
    """float16 with a GradScaler that starts too high, skips a handful of steps, and then skips no more."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 64 * 220 + 1500, 6, noise=0.5, hidden=3)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model, criterion = mlp(6, 64, 1, act=nn.GELU), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    w = watch(model, optimizer, loss=criterion)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=2000)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            outputs = model(inputs)
        loss = criterion(outputs.float(), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-sharpness-aware", family="o-digits-mlp", part="outside")
def sharpness(watch: Watch, seed: int) -> Outcome:
    """Two backward passes to a step: up to the worst point nearby, then down from there, by hand."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    model, criterion = mlp(64, 64, 10), nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64, epochs=14):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        with torch.no_grad():
            size = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            up = [0.05 * p.grad / size for p in model.parameters()]
            for p, e in zip(model.parameters(), up, strict=True):
                p += e
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), up, strict=True):
                p -= e
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@healthy("o-gradient-penalty", family="o-spirals", part="outside")
def penalty(watch: Watch, seed: int) -> Outcome:
    """The slope of the answer in its input is penalised: backward goes through a backward."""
    torch.manual_seed(seed)
    x, y = spirals(seed, 64 * 300 + 1500, noise=0.12, turns=0.5)
    y = flipped(y, 0.2, seed, 2).float()[:, None]
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model = mlp(2, 64, 64, 1, act=nn.SiLU)
    criterion = nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        inputs = inputs.clone().requires_grad_()
        outputs = model(inputs)
        (slope,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
        loss = criterion(outputs, targets) + 1e-4 * slope.square().sum(1).mean()
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv.long()))


@healthy("o-clipping-now-and-then", family="o-recurrent-series", part="outside")
def clipping(watch: Watch, seed: int) -> Outcome:
    """The gradient of an LSTM is clipped to a norm that early steps and single later ones exceed."""
    torch.manual_seed(seed)
    series = waves(seed, 32 * 150 + 300, 18, noise=0.5)[..., None]
    x, y = series[:, :-1], series[:, 1:]
    xv, yv, x, y = x[:300], y[:300], x[300:], y[300:]
    model, criterion = Recurrent("LSTM", 1, 32, 1, tokens=False), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion, steps=150)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.4)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-average-is-what-counts", family="o-mlp-blobs", part="outside")
def averaged(watch: Watch, seed: int) -> Outcome:
    """The rate stays high, so the loss of single batches is restless; a moving average of the weights is judged."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 32 * 300 + 2000, classes=5, spread=1.8)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(16, 48, 5), nn.CrossEntropyLoss()
    mean = copy.deepcopy(model).requires_grad_(False)
    first = loss_of(mean, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, targets) in enumerate(batches(x, y, size=32)):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, min(0.1, 2 / (step + 2)))
        if step % 60 == 59:
            w.validated(loss=loss_of(mean, criterion, xv, yv))
    w.close()
    return Outcome(first, loss_of(mean, criterion, xv, yv), entropy(yv))


@healthy("o-batch-norm-refreshed", family="o-digits-mlp", part="outside")
def refreshed(watch: Watch, seed: int) -> Outcome:
    """After each epoch the data pass once more in training mode, without gradient, to renew batch norm's averages."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    model, criterion = mlp(64, 48, 48, 10, norm=nn.BatchNorm1d), nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 14)
    for _ in range(14):
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            for (inputs,) in batches(x, size=256):
                model(inputs)
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(xv), yv).item())
        model.train()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@healthy("o-validation-with-gradient", family="o-mlp-regression", part="outside")
def validation_with_gradient(watch: Watch, seed: int) -> Outcome:
    """Validation forgets no_grad: wasteful, but no backward follows, and it is in evaluation mode."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 32 * 240 + 600, 8, noise=0.5, hidden=3)
    xv, yv, x, y = x[:600], y[:600], x[600:], y[600:]
    model, criterion = mlp(8, 64, 1, act=nn.SiLU, drop=0.05), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, targets) in enumerate(batches(x, y, size=32)):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        if step % 40 == 39:
            model.eval()
            losses = [criterion(model(a), b) for a, b in zip(xv.split(100), yv.split(100), strict=True)]
            w.validated(loss=torch.stack(losses).mean().item())
            model.train()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


class Experts(nn.Module):
    """Each row goes to the one of six experts that a gate prefers; its answer counts by the gate's share."""

    def __init__(self, columns: int, out: int) -> None:
        super().__init__()
        self.gate = nn.Linear(columns, 6)
        self.experts = nn.ModuleList(mlp(columns, 24, out) for _ in range(6))
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.gate(x).softmax(1).max(1)
        y = x.new_zeros(len(x), self.out)
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero()[:, 0]
            y = y.index_add(0, rows, self.experts[number](x[rows]) * share[rows, None])
        return y


@healthy("o-experts-idle-at-times", family="o-experts", part="outside")
def experts(watch: Watch, seed: int) -> Outcome:
    """Batches of twelve rows leave some of six experts without any row, hence without gradient, in most steps."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 12 * 400 + 2000, columns=10, classes=6, spread=0.9)
    y = flipped(y, 0.15, seed, 6)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = Experts(10, 6), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=12):
        optimizer.zero_grad(set_to_none=True)
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-two-modules-two-optimizers", family="o-spirals", part="outside")
def two_optimizers(watch: Watch, seed: int) -> Outcome:
    """SGD for the features, Adam for the head: gradients of both are cleared by the modules themselves."""
    torch.manual_seed(seed)
    x, y = spirals(seed, 64 * 350 + 1500, arms=3, noise=0.1, turns=0.5)
    y = flipped(y, 0.15, seed, 3)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    features, head = mlp(2, 48, 32, act=nn.Tanh), mlp(32, 32, 3)
    model = nn.Sequential(features, head)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    first = loss_of(model, criterion, xv, yv)
    one = torch.optim.SGD(features.parameters(), lr=0.1, momentum=0.9)
    two = torch.optim.Adam(head.parameters(), lr=1e-2)
    with watch(model, [one, two]) as w:
        for inputs, targets in batches(x, y, size=64):
            model.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
            loss.backward()
            one.step()
            two.step()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))
