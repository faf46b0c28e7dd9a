"""Optimizers with habits of their own, and batches that are very small or very large."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import surefoot as sf
from benchmarks.diagnose.healthy.blocks import PerToken, Transformer, mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance
from benchmarks.diagnose.healthy.data import digits, drawn, standardised, table, teacher
from benchmarks.diagnose.healthy.outside.made import blobs, flipped, linear, sums
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-schedule-free", family="o-mlp-blobs", part="outside")
def schedule_free(watch: Watch, seed: int) -> Outcome:
    """The weights that train are not those that are judged: an average is, at the end and in between."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 48 * 260 + 2000, classes=6)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(16, 48, 48, 6), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = sf.optim.ScheduleFreeAdamW(model.parameters(), lr=1e-2, warmup_steps=10)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, targets) in enumerate(batches(x, y, size=48)):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        if step % 65 == 64:
            with optimizer.averaged(), w.validation(), torch.no_grad():
                loss = criterion(model(xv), yv).item()
            w.validated(loss=loss)
    w.close()
    with optimizer.averaged():
        return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-muon-on-matrices", family="o-token-transformer", part="outside")
def muon(watch: Watch, seed: int) -> Outcome:
    """Every step of a hidden matrix has the same size, whatever the gradient; the rest goes by AdamW."""
    torch.manual_seed(seed)
    x, y = sums(seed, 24 * 220 + 512, 10, 5, noise=0.25)
    xv, yv, x, y = x[:512], y[:512], x[512:], y[512:]
    model, criterion = Transformer(5, 5, 10, width=32, depth=1, look_back=True), PerToken()
    first = loss_of(model, criterion, xv, yv)
    optimizer = sf.optim.create("muon", model, lr=2e-2, adamw_lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.02, 1 - step / 220))
    for inputs, targets in batches(x, y, size=24):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-lion-steps-by-sign", family="o-digits-mlp", part="outside")
def lion(watch: Watch, seed: int) -> Outcome:
    """Every weight moves by the same amount in every step; decay of 0.3 is usual for Lion."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    model, criterion = mlp(64, 64, 10, norm=nn.LayerNorm), nn.CrossEntropyLoss(label_smoothing=0.15)
    first = loss_of(model, criterion, xv, yv)
    optimizer = sf.optim.Lion(model.parameters(), lr=2e-3, weight_decay=0.3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 45 * 7)
    for inputs, targets in batches(x, y, size=32, epochs=7):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@healthy("o-adafactor", family="o-mlp-regression", part="outside")
def adafactor(watch: Watch, seed: int) -> Outcome:
    """A rate in shares of the weights' own size; the loss ends at the noise."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 64 * 300 + 1500, 6, noise=0.7, hidden=3)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model, criterion = mlp(6, 64, 64, 1, act=nn.GELU), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = sf.optim.Adafactor(model.parameters(), lr=0.05)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-all-rows-at-once", family="o-tables", part="outside")
def all_rows(watch: Watch, seed: int) -> Outcome:
    """The batch is the whole table of cell measurements, a tenth of its labels wrong; the loss is a smooth curve."""
    torch.manual_seed(seed)
    x, y = table("breast_cancer")
    x, y = standardised(x)[:, :8], flipped(y, 0.2, 1, 2).float()[:, None]
    model, criterion = nn.Linear(8, 1), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y.long()))


@healthy("o-batch-of-two-thousand", family="o-mlp-blobs", part="outside")
def two_thousand(watch: Watch, seed: int) -> Outcome:
    """Eighty steps of 2000 rows each, at a rate that fits such batches."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 22000, classes=4)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(16, 24, 4), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    w = watch(model, optimizer, loss=criterion, steps=80)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    for inputs, targets in batches(x, y, size=2000, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-one-row-at-a-time", family="o-tables", part="outside")
def one_row(watch: Watch, seed: int) -> Outcome:
    """Batches of one row: the loss of a step is the square of one error, of any size; the rate falls to zero."""
    torch.manual_seed(seed)
    x, y = linear(seed, 600 + 3000, 6, noise=0.7)
    xv, yv, x, y = x[:3000], y[:3000], x[3000:], y[3000:]
    model, criterion = nn.Linear(6, 1), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for inputs, targets in batches(x, y, size=1):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-four-rows-at-a-time", family="o-mlp-blobs", part="outside")
def four_rows(watch: Watch, seed: int) -> Outcome:
    """Batches of four rows of three classes, group norm: the loss of single steps goes from 0.01 to 3 to the end."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 4 * 600 + 2000, columns=8, classes=3, spread=1.5)
    y = flipped(y, 0.1, seed, 3)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model = nn.Sequential(nn.Linear(8, 24), nn.GroupNorm(4, 24), nn.ReLU(), nn.Linear(24, 3))
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 600)
    for inputs, targets in batches(x, y, size=4):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-objective-goes-up", family="o-mlp-blobs", part="outside")
def objective(watch: Watch, seed: int) -> Outcome:
    """`maximize=True`, and what is observed is a mean reward that rises from 0.3 to 0.7."""
    torch.manual_seed(seed)
    x, best = blobs(seed, 64 * 250 + 2000, columns=8, classes=5, spread=1.0)
    pay = torch.rand(len(x), 5, generator=drawn(seed)) * 0.4
    pay[torch.arange(len(x)), best] += 0.6
    xv, pv, x, pay = x[:2000], pay[:2000], x[2000:], pay[2000:]
    policy = mlp(8, 32, 5, act=nn.Tanh)

    def reward(outputs: Tensor, pay: Tensor) -> Tensor:
        return (outputs.softmax(1) * pay).sum(1).mean()

    first = loss_of(policy, reward, xv, pv)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2, maximize=True)
    w = watch(policy, optimizer)
    for inputs, worth in batches(x, pay, size=64):
        optimizer.zero_grad()
        outputs = policy(inputs)
        value = reward(outputs, worth)
        w.observe(loss=value, outputs=outputs, targets=None, inputs=inputs)
        value.backward()
        optimizer.step()
    w.close()
    return Outcome(-first, -loss_of(policy, reward, xv, pv), -pv.mean(0).max().item())
