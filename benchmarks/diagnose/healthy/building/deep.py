"""Spirals and parities: plain networks, deep ones and late ones."""

import itertools
from functools import partial

import torch
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="spirals-mlp", part="building")
late = partial(healthy, family="parity-mlp", part="building")


@sound("deep-tanh")
def deep_tanh(watch, seed):
    """Ten tanh layers that start orthogonal: gradients differ from layer to layer, none vanishes."""
    torch.manual_seed(seed)
    x, y = data.spirals(seed, 2000, noise=0.12)
    model, criterion = mlp(2, *[24] * 10, 2, act=nn.Tanh), nn.CrossEntropyLoss()
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 1.1)
            nn.init.zeros_(layer.bias)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for inputs, labels in batches(x, y, size=50, epochs=10):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("large-rate-that-oscillates-down")
def large_rate(watch, seed):
    """A rate so large that the loss leaps between half and twice its mean until the rate has come down."""
    torch.manual_seed(seed)
    x, y = data.spirals(seed, 1200, noise=0.2, turns=0.7)
    model, criterion = mlp(2, 20, 20, 2, act=nn.Tanh), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=480)
    for inputs, labels in batches(x, y, size=20, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("weight-norm")
def weight_norm(watch, seed):
    """Weights as length times direction: the parameters are not named `weight`."""
    torch.manual_seed(seed)
    x, y = data.spirals(seed, 2000, arms=3, noise=0.1)
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Linear(2, 64)), nn.ReLU(), norm(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 3))
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=100, epochs=20):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("selu-with-clip-by-value")
def clip_by_value(watch, seed):
    """Gradients clipped entry by entry."""
    torch.manual_seed(seed)
    x, y = data.spirals(seed, 2000, arms=3, noise=0.1)
    model, criterion = mlp(2, 48, 48, 48, 3, act=nn.SELU), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=100, epochs=20):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("learnt-by-heart")
def by_heart(watch, seed):
    """Random labels on 64 points, a wide network: the training set is learnt down to no loss, as meant."""
    torch.manual_seed(seed)
    x, y = torch.randn(64, 2, generator=data.drawn(seed)), torch.randint(2, (64,), generator=data.drawn(seed + 1))
    model, criterion = mlp(2, 256, 256, 2), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(500):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@late("parity-that-comes-late")
def parity(watch, seed):
    """The parity of 3 bits among 20, one label in twenty wrong, new rows in each step: half the run at ln 2, then the
    fall to the floor."""
    torch.manual_seed(seed)

    def rows(count):
        x = (torch.rand(count, 20) < 0.5).float() * 2 - 1
        y = (x[:, :3].prod(1, keepdim=True) > 0).float()
        return x, torch.where(torch.rand(count, 1) < 0.05, 1 - y, y)

    some = rows(2000)
    model, criterion = mlp(20, 128, 1), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, *some)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(800):
        inputs, labels = rows(64)
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, *some), 0.6931)


@late("whole-table-of-xor")
def xor(watch, seed):
    """All 32 rows of a five-bit parity, in full batches: no progress at first, none at the end."""
    torch.manual_seed(seed)
    x = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)))
    y = (x.prod(1, keepdim=True) > 0).float()
    model, criterion = mlp(5, 64, 1, act=nn.Tanh), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(700):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), 0.6931)
