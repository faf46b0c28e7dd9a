"""Long waits that end, deep and restrained nets that learn all the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance
from benchmarks.diagnose.healthy.data import digits, drawn, teacher
from benchmarks.diagnose.healthy.outside.made import blobs, flipped
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-parity-of-three-bits", family="o-waits", part="outside")
def parity(watch: Watch, seed: int) -> Outcome:
    """The parity of three of ten bits: little for a quarter of the run, then all but 5 % of wrong labels."""
    torch.manual_seed(seed)
    x = torch.randint(0, 2, (64 * 500 + 1500, 10), generator=drawn(seed)) * 2.0 - 1
    y = flipped((x[:, 2] * x[:, 5] * x[:, 7] > 0).long(), 0.1, seed, 2)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model, criterion = mlp(10, 40, 2), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-saddle-of-linear-layers", family="o-waits", part="outside")
def saddle(watch: Watch, seed: int) -> Outcome:
    """Three linear layers with small weights start beside a saddle: flat at first, then down, to the noise."""
    torch.manual_seed(seed)
    g = drawn(seed)
    x, way = torch.randn(64 * 300 + 1500, 10, generator=g), torch.linalg.qr(torch.randn(10, 10, generator=g))[0]
    y = x @ way[:, :4] + 0.7 * torch.randn(len(x), 4, generator=g)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((10, 16), (16, 16), (16, 4))))
    for layer in model:
        nn.init.normal_(layer.weight, std=0.025)
    criterion = nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-deep-tanh", family="o-restrained", part="outside")
def deep_tanh(watch: Watch, seed: int) -> Outcome:
    """Fourteen tanh layers without shortcut, started orthogonal, so that the gradient reaches the first."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    x, xv = (2 * part - 0.6 for part in (x, xv))
    model, criterion = mlp(64, *[32] * 14, 10, act=nn.Tanh), nn.CrossEntropyLoss(label_smoothing=0.15)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 1.1)
            nn.init.zeros_(layer.bias)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 22 * 15)
    for inputs, targets in batches(x, y, size=64, epochs=15):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@healthy("o-mostly-dropped", family="o-digits-mlp", part="outside")
def dropped(watch: Watch, seed: int) -> Outcome:
    """Half of the units are dropped in both hidden layers: the loss of training stays far above that of validation."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    model, criterion = mlp(64, 128, 128, 10, drop=0.5), nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(14):
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        with w.validation():
            model.eval()
            with torch.no_grad():
                loss = criterion(model(xv), yv)
            model.train()
        w.validated(loss=loss.item())
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@healthy("o-spectral-norm", family="o-restrained", part="outside")
def spectral(watch: Watch, seed: int) -> Outcome:
    """No layer stretches by more than 1, so weights that are stored grow though those that are used do not."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 64 * 250 + 2000, columns=12, classes=4, spread=2.0)
    x = 3 * x
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    layers = [parametrizations.spectral_norm(nn.Linear(a, b)) for a, b in ((12, 48), (48, 48))]
    model = nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), nn.Linear(48, 4))
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-weight-norm", family="o-restrained", part="outside")
def weight_norm(watch: Watch, seed: int) -> Outcome:
    """Direction and length of each weight are parameters of their own; the last layer starts at length zero."""
    torch.manual_seed(seed)
    x, y = teacher(seed, 32 * 350 + 1500, 6, noise=0.6, hidden=3)
    xv, yv, x, y = x[:1500], y[:1500], x[1500:], y[1500:]
    model = nn.Sequential(
        *(parametrizations.weight_norm(p) if isinstance(p, nn.Linear) else p for p in mlp(6, 48, 48, 1))
    )
    nn.init.zeros_(model[-1].parametrizations.weight.original0)
    criterion = nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with watch(model, optimizer, loss=criterion):
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 350)
        for inputs, targets in batches(x, y, size=32):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            nn.utils.clip_grad_value_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


class Scalars(nn.Module):
    """Twelve residual branches, each behind a scalar that starts at zero: at first the net is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.head = nn.Linear(16, 32), nn.Linear(32, 5)
        self.branches = nn.ModuleList(mlp(32, 32, 32, act=nn.GELU) for _ in range(12))
        self.scales = nn.Parameter(torch.zeros(12))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inside(x)
        for scale, branch in zip(self.scales, self.branches, strict=True):
            h = h + scale * branch(h)
        return self.head(h)


@healthy("o-scalars-start-at-zero", family="o-restrained", part="outside")
def scalars(watch: Watch, seed: int) -> Outcome:
    """In the first step only the head's weight has a gradient; in the second, the scalars; then all."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 48 * 200 + 2000, classes=5)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = Scalars(), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=48):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))
