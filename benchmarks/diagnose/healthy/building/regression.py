"""A teacher network with noise, a small network, regression: the loss ends at the variance of the noise."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import Residual, mlp
from benchmarks.diagnose.healthy.common import batches, loss_of, variance
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="teacher-mlp", part="building")


@sound("regression-at-its-noise-floor")
def noise_floor(watch, seed):
    """The loss reaches the variance of the noise (0.25) in a third of the training and lies there."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 4000, 6, noise=0.5)
    model, criterion = mlp(6, 24, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64, epochs=12):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("batch-of-one")
def batch_of_one(watch, seed):
    """One row a step, a rate to match: the loss of a step is all noise."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 2500, 6, noise=0.5)
    model, criterion = mlp(6, 24, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=1):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("huber-with-outliers")
def huber(watch, seed):
    """One target in twenty is off by 20: single batches cost ten times as much as others, and the loss can bear it."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 6, noise=0.2)
    y = torch.where(torch.rand(len(y), 1) < 0.05, y + 20 * torch.randn_like(y), y)
    model, criterion = mlp(6, 32, 1), nn.HuberLoss(delta=0.5)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32, epochs=5):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), criterion(y.median().expand_as(y), y).item())


@sound("likelihood-below-zero")
def gaussian_nll(watch, seed):
    """Mean and variance are learnt: the negative log-likelihood passes through zero on its way down."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 4, noise=0.0)
    y = y + 0.05 * torch.randn_like(y) * (1 + 4 * (x[:, :1] > 0))
    model = mlp(4, 48, 48, 2, act=nn.SiLU)

    def nll(found, targets):
        return F.gaussian_nll_loss(found[:, :1], targets, F.softplus(found[:, 1:]) + 1e-3)

    first = loss_of(model, nll, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for _ in range(12):
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            found = model(inputs)
            loss = nll(found, targets)
            w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
            loss.backward()
            optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, nll, x, y), 0.5)


@sound("lion")
def lion(watch, seed):
    """Updates of one size, whatever the gradient; a rate ten times below Adam's."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 8, noise=0.4)
    model, criterion = mlp(8, 32, 32, 1, act=nn.GELU), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = sf.optim.Lion(model.parameters(), lr=5e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=460)
    for inputs, targets in batches(x, y, size=64, epochs=10):
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("twenty-residual-blocks")
def residual(watch, seed):
    """Twenty blocks whose last layer starts at zero: at first most weights get hardly any gradient."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 2000, 8, noise=0.4)
    blocks = [Residual(nn.LayerNorm(24), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24)) for _ in range(20)]
    for block in blocks:
        nn.init.zeros_(block.inner[-1].weight)
        nn.init.zeros_(block.inner[-1].bias)
    model, criterion = nn.Sequential(nn.Linear(8, 24), *blocks, nn.LayerNorm(24), nn.Linear(24, 1)), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = sf.optim.AdamW(model.parameters(), lr=1e-3, clip_norm=1.0)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=50, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("missing-targets")
def missing_targets(watch, seed):
    """Four targets in ten are NaN and masked out of the loss."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 6, noise=0.3)
    y = torch.cat([y, y * y - 1, x[:, :1] + 0.3 * torch.randn_like(y)], 1)
    y = y.masked_fill(torch.rand_like(y) < 0.4, float("nan"))
    model = mlp(6, 48, 3, act=nn.Tanh)

    def masked(found, targets):
        there = ~targets.isnan()
        return F.mse_loss(found[there], targets[there])

    first = loss_of(model, masked, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=64, epochs=12):
        found = model(inputs)
        loss = masked(found, targets)
        w.observe(loss=loss, outputs=found, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(
        first, loss_of(model, masked, x, y), float(masked(torch.stack([c.nanmean() for c in y.T]).expand_as(y), y))
    )


@sound("schedule-free")
def schedule_free(watch, seed):
    """Schedule-Free: the weights trained and those validated differ; it has its own train and eval."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 6, noise=0.4)
    model, criterion = mlp(6, 32, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = sf.optim.ScheduleFreeAdamW(model.parameters(), lr=0.03)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8):
        optimizer.train()
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        optimizer.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(x), y).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("cosine-restarts")
def restarts(watch, seed):
    """The rate jumps back up three times, and the loss with it."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 8, noise=0.4)
    model, criterion = mlp(8, 32, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=120)
    for inputs, targets in batches(x, y, size=64, epochs=10):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("curriculum")
def curriculum(watch, seed):
    """Rows near the centre first, all rows later: the loss rises while the training gets on."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 4, noise=0.3)
    order = x.norm(dim=1).argsort()
    x, y = x[order], y[order]
    model, criterion = mlp(4, 48, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for share in (0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1, 1):
        seen = int(share * len(x))
        for inputs, targets in batches(x[:seen], y[:seen], size=64):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))
