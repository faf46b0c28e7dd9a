"""Losses that stay high, or go below zero, since the data or the loss are so."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import Recurrent, mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance
from benchmarks.diagnose.healthy.data import drawn, table, teacher
from benchmarks.diagnose.healthy.outside.made import blobs, flipped, linear
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-half-the-labels-random", family="o-mlp-blobs", part="outside")
def half_random(watch: Watch, seed: int) -> Outcome:
    """Half of the labels are noise: the loss ends near where it began."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 64 * 250 + 3000, columns=10, classes=5, spread=1.0)
    y = flipped(y, 0.5, seed, 5)
    xv, yv, x, y = x[:3000], y[:3000], x[3000:], y[3000:]
    model, criterion = mlp(10, 32, 5), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, targets) in enumerate(batches(x, y, size=64)):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        if step % 50 == 49:
            with w.validation():
                model.eval()
                with torch.no_grad():
                    loss = criterion(model(xv), yv)
                model.train()
            w.validated(loss=loss.item())
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-tenth-of-variance", family="o-tables", part="outside")
def tenth_of_variance(watch: Watch, seed: int) -> Outcome:
    """A tenth of the variance can be explained, and is: the loss falls from 10 to 9."""
    torch.manual_seed(seed)
    x, y = linear(seed, 100 * 200 + 5000, 6, noise=3.0)
    xv, yv, x, y = x[:5000], y[:5000], x[5000:], y[5000:]
    model, criterion = nn.Linear(6, 1), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=100):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-returns-nearly-noise", family="o-recurrent-series", part="outside")
def returns(watch: Watch, seed: int) -> Outcome:
    """The next value hangs on the last by a correlation of 0.35: a GRU finds an eighth of the variance."""
    torch.manual_seed(seed)
    g, rows, length = drawn(seed), 32 * 150 + 500, 16
    steps = [torch.randn(rows, generator=g)]
    for _ in range(length):
        steps.append(0.35 * steps[-1] + 0.94 * torch.randn(rows, generator=g))
    series = torch.stack(steps, 1)[..., None]
    x, y = series[:, :-1], series[:, 1:]
    model, criterion = Recurrent("GRU", 1, 12, 1, tokens=False), nn.MSELoss()
    first = loss_of(model, criterion, x[:500], y[:500])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x[500:], y[500:], size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x[:500], y[:500]), variance(y[:500]))


def pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of the 10th, 50th and 90th percentile."""
    share, off = torch.tensor([0.1, 0.5, 0.9]), targets - outputs
    return torch.maximum(share * off, (share - 1) * off).mean()


@healthy("o-quantiles", family="o-mlp-regression", part="outside")
def quantiles(watch: Watch, seed: int) -> Outcome:
    """Three percentiles of one target [N, 1], which broadcasts against [N, 3] on purpose in a plain function."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 64 * 250 + 2000, 6, noise=0.7, hidden=3)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model = mlp(6, 48, 3, act=nn.GELU)
    first = loss_of(model, pinball, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = pinball(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
    w.close()
    base = pinball(yv.quantile(torch.tensor([0.1, 0.5, 0.9]))[None], yv).item()
    return Outcome(first, loss_of(model, pinball, xv, yv), base)


@healthy("o-huber-with-outliers", family="o-mlp-regression", part="outside")
def huber(watch: Watch, seed: int) -> Outcome:
    """One target in thirty lies twenty deviations away: single batches spike, Huber's loss takes it."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 32 * 300 + 3000, 6, noise=0.3, hidden=3)
    g = drawn(seed + 5)
    y = y + 20 * torch.randn(y.shape, generator=g) * (torch.rand(y.shape, generator=g) < 1 / 30)
    xv, yv, x, y = x[:3000], y[:3000], x[3000:], y[3000:]
    model, criterion = mlp(6, 48, 1, act=nn.Tanh), nn.HuberLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), criterion(yv.median().expand_as(yv), yv).item())


class Scaled(nn.Module):
    """A network whose answer is brought to the targets' own units inside the model."""

    def __init__(self, inner: nn.Module, mean: float, deviation: float) -> None:
        super().__init__()
        self.inner, self.mean, self.deviation = inner, mean, deviation

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.deviation * self.inner(x)


@healthy("o-progression-in-own-units", family="o-tables", part="outside")
def progression(watch: Watch, seed: int) -> Outcome:
    """Diabetes scores of 25 to 346, L1: the model scales its answer, so the loss is 45 but the weights are small."""
    torch.manual_seed(seed)
    x, y = table("diabetes")
    y = y.float()[:, None]
    model = Scaled(nn.Sequential(nn.BatchNorm1d(10, affine=False, momentum=None), nn.Linear(10, 1)), 150.0, 75.0)
    criterion = nn.L1Loss()
    model(x)  # one pass, for the first loss to be measured with statistics of the data
    first = loss_of(model, criterion, x[:100], y[:100])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x[100:], y[100:], size=32, epochs=25):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    last = loss_of(model, criterion, x[:100], y[:100])
    return Outcome(first, last, criterion(y[100:].median().expand(100, 1), y[:100]).item())


@healthy("o-poisson-counts", family="o-tables", part="outside")
def poisson(watch: Watch, seed: int) -> Outcome:
    """The likelihood of counts without its constant: below zero from the first steps on."""
    torch.manual_seed(seed)
    g = drawn(seed)
    x = torch.randn(64 * 250 + 2000, 8, generator=g)
    y = torch.poisson((1.2 + 0.35 * x @ torch.randn(8, 1, generator=g)).clamp(max=3).exp(), generator=g)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(8, 32, 1), nn.PoissonNLLLoss(log_input=True)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), criterion(yv.mean().log().expand_as(yv), yv).item())


@healthy("o-grades-by-thresholds", family="o-tables", part="outside")
def grades(watch: Watch, seed: int) -> Outcome:
    """Five ordered grades as four yes-no questions, in a plain function that turns labels into targets itself."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 64 * 220 + 2000, 8, noise=0.5, hidden=3)
    y = torch.bucketize(y[:, 0], torch.tensor([-1.0, -0.3, 0.4, 1.1]))

    def ordinal(outputs: Tensor, labels: Tensor) -> Tensor:
        above = (labels[:, None] > torch.arange(4)).float()
        return F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(1).mean()

    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model = mlp(8, 48, 4)
    first = loss_of(model, ordinal, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    with watch(model, optimizer) as w:
        for inputs, labels in batches(x, y, size=64):
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = ordinal(outputs, labels)
            w.observe(loss=loss, outputs=outputs, targets=labels, inputs=inputs)
            loss.backward()
            optimizer.step()
    share = (yv[:, None] > torch.arange(4)).float().mean(0)
    base = ordinal(share.logit().expand(len(yv), 4), yv).item()
    return Outcome(first, loss_of(model, ordinal, xv, yv), base)


@healthy("o-gaussian-likelihood", family="o-mlp-regression", part="outside")
def gaussian(watch: Watch, seed: int) -> Outcome:
    """Mean and log-variance are learnt: the loss goes from positive through zero to about -1."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 64 * 400 + 2000, 4, noise=0.0, hidden=2)
    y = y + (0.1 + 0.1 * x[:, 1:2].sigmoid()) * torch.randn(y.shape, generator=drawn(seed + 3))

    def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.gaussian_nll_loss(outputs[:, :1], targets, outputs[:, 1:].clamp(-8, 8).exp())

    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model = mlp(4, 64, 64, 2, act=nn.SiLU)
    first = loss_of(model, likelihood, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=None)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = likelihood(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    base = likelihood(torch.tensor([[yv.mean(), yv.var().log()]]).expand(len(yv), 2), yv).item()
    return Outcome(first, loss_of(model, likelihood, xv, yv), base)


@healthy("o-targets-with-gaps", family="o-tables", part="outside")
def gaps(watch: Watch, seed: int) -> Outcome:
    """A third of the targets are NaN, for "not measured"; the loss leaves them out."""
    torch.manual_seed(seed)
    x, y = linear(seed, 64 * 200 + 2000, 10, noise=0.5)
    y = torch.cat([y, y.square() - 1], 1)
    y[torch.rand(y.shape, generator=drawn(seed + 9)) < 1 / 3] = float("nan")

    def known(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets)[~targets.isnan()].square().mean()

    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model = mlp(10, 48, 2)
    first = loss_of(model, known, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = known(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, known, xv, yv), known(yv.nanmean(0).expand_as(yv), yv).item())
