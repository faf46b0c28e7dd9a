"""Small tables: wines and irises, patients' progress in its own units, and a teacher with wrong labels."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.registry import Outcome, healthy

wine = partial(healthy, family="wine-mlp", part="measuring")
patient = partial(healthy, family="diabetes-mlp", part="measuring")


def wines(noise=0.1):
    x, y = data.table("wine")
    g = data.drawn(0)
    wrong = torch.rand(len(y), generator=g) < noise
    return data.standardised(x), torch.where(wrong, torch.randint(3, y.shape, generator=g), y)


@wine("softmax-regression-in-full-batches")
def softmax_regression(watch, seed):
    """A linear model, all rows in each step, long converged: a smooth loss that lies still for half of the run."""
    torch.manual_seed(seed)
    x, y = wines()
    model, criterion = nn.Linear(13, 3), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(400):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@wine("one-batch-on-purpose")
def one_batch(watch, seed):
    """The same batch in every step, to see whether the model can learn it; there is no validation."""
    torch.manual_seed(seed)
    x, y = wines()
    x, y = x[:16], y[:16]
    model, criterion = mlp(13, 64, 64, 3), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(150):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@wine("one-row-a-step")
def one_row(watch, seed):
    """Wines one by one."""
    torch.manual_seed(seed)
    x, y = wines()
    model, criterion = nn.Linear(13, 3), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=1780)
    for inputs, labels in batches(x, y, size=1, epochs=10):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@wine("classes-nine-to-one")
def nine_to_one(watch, seed):
    """Two wines, the second one row in ten, with weights for the classes."""
    torch.manual_seed(seed)
    x, y = wines()
    kept = torch.cat([(y == 1).nonzero()[:, 0], (y == 0).nonzero()[:8, 0]])
    x, y = x[kept], 1 - y[kept]
    model, criterion = nn.Linear(13, 2), nn.CrossEntropyLoss(weight=torch.tensor([0.3, 1.0]))
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=16, epochs=50):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    base = criterion(torch.tensor([0.3 * 0.9, 0.1]).log().expand(len(y), 2), y)
    return Outcome(first, loss_of(model, criterion, x, y), base.item())


@wine("twenty-steps-with-warmup")
def twenty_steps(watch, seed):
    """Twenty-four steps, the first eight of them warm-up."""
    torch.manual_seed(seed)
    x, y = wines()
    model, criterion = nn.Linear(13, 3), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.08)
    w = watch(model, optimizer, loss=criterion, steps=24)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(8, 24))
    for _ in range(24):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


class OwnUnits(nn.Module):
    """A network whose last layer is scaled to the targets' own units."""

    def __init__(self, inner, y):
        super().__init__()
        self.inner = inner
        self.register_buffer("shift", y.mean(0))
        self.register_buffer("scale", y.std(0))

    def forward(self, x):
        return self.shift + self.scale * self.inner(x)


def patients():
    x, y = data.table("diabetes")
    return data.standardised(x), y.float()[:, None]


@patient("targets-in-their-own-units")
def own_units(watch, seed):
    """Targets of 25 to 346: the loss is in the thousands, and the model is scaled for it."""
    torch.manual_seed(seed)
    x, y = patients()
    vx, vy, x, y = x[:120], y[:120], x[120:], y[120:]
    model, criterion = OwnUnits(nn.Linear(10, 1), y), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(20):
        for inputs, targets in batches(x, y, size=32):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            w.validated(loss=criterion(model(vx), vy).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@patient("quantiles-three-at-once")
def quantiles(watch, seed):
    """Three quantiles of the standardised target: outputs and targets differ in shape, in a loss made for that."""
    torch.manual_seed(seed)
    x, y = patients()
    y = data.standardised(y)
    levels = torch.tensor([0.1, 0.5, 0.9])
    model = nn.Linear(10, 3)

    def pinball(found, targets):
        over = targets - found
        return torch.maximum(levels * over, (levels - 1) * over).mean()

    first = loss_of(model, pinball, x, y)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=32, epochs=25):
        found = model(inputs)
        loss = pinball(found, targets)
        w.observe(loss=loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, pinball, x, y), pinball(y.quantile(levels)[None].expand(len(y), 3), y).item())


@patient("mean-and-spread")
def mean_and_spread(watch, seed):
    """A normal distribution for each patient, by likelihood, under a clip that bites in the first steps."""
    torch.manual_seed(seed)
    x, y = patients()
    y = data.standardised(y)
    model = nn.Linear(10, 2)

    def nll(found, targets):
        mean, log_deviation = found[:, :1], found[:, 1:].clamp(-4, 4)
        return (log_deviation + 0.5 * ((targets - mean) / log_deviation.exp()).square()).mean()

    first = loss_of(model, nll, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=40, epochs=25):
        optimizer.zero_grad()
        found = model(inputs)
        loss = nll(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, nll, x, y), 0.5)


@patient("least-absolute-errors")
def absolute(watch, seed):
    """L1 loss: the gradient does not fade near the optimum, the rate does."""
    torch.manual_seed(seed)
    x, y = patients()
    y = data.standardised(y)
    model, criterion = mlp(10, 4, 1, act=nn.Tanh), nn.L1Loss()
    first = loss_of(model, criterion, x, y)
    optimizer = sf.optim.Lion(model.parameters(), lr=0.02, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for inputs, targets in batches(x, y, size=44, epochs=30):
        criterion(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), criterion(y.median().expand_as(y), y).item())


@patient("counts-of-visits")
def visits(watch, seed):
    """Poisson counts: variance grows with the mean; one batch costs several times as much as another."""
    torch.manual_seed(seed)
    x, _ = patients()
    y = torch.poisson((0.5 + 0.8 * x[:, 2:3] + 0.4 * x[:, 8:9]).clamp(max=3.5).exp(), generator=data.drawn(seed))
    model = nn.Linear(10, 1)

    def poisson(found, counts):
        return F.poisson_nll_loss(found, counts, full=True)

    first = loss_of(model, poisson, x, y)
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    for inputs, counts in batches(x, y, size=32, epochs=25):
        found = model(inputs)
        loss = poisson(found, counts)
        w.observe(loss=loss, outputs=found, targets=counts, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, poisson, x, y), poisson(y.mean().log().expand_as(y), y).item())
