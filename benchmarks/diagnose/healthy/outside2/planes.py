"""Points in the plane: moons and circles that overlap, by several losses and optimizers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of
from benchmarks.diagnose.healthy.outside2.rows import generated
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("2-adagrad-slows-down", family="2-moons", part="outside2")
def adagrad(watch: Watch, seed: int) -> Outcome:
    """Adagrad's steps shrink all along; the moons overlap, so that the loss has a floor."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("moons", seed, n_samples=3000, noise=0.4)
    y, y2 = y.float()[:, None], y2.float()[:, None]
    model, criterion = mlp(2, 32, 32, 1), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    first = loss_of(model, criterion, x2, y2)
    with watch(model, optimizer, loss=criterion):
        for inputs, targets in batches(x, y, size=32, epochs=6):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), binary_entropy(y2))


@healthy("2-circles-restarted", family="2-circles", part="outside2")
def restarts(watch: Watch, seed: int) -> Outcome:
    """The rate jumps back up three times, and the loss with it; momentum and Nesterov."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("circles", seed, n_samples=3000, noise=0.25, factor=0.4)
    model, criterion = mlp(2, 32, 32, 2), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=1e-4)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=42, T_mult=2)
    for inputs, targets in batches(x, y, size=50, epochs=7):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


@healthy("2-mixed-up-moons", family="2-moons", part="outside2")
def mixup(watch: Watch, seed: int) -> Outcome:
    """Rows and labels mixed in pairs: targets are probabilities, and the training loss stays above validation's."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("moons", seed, n_samples=3000, noise=0.3)
    model, criterion = mlp(2, 48, 48, 2, act=nn.GELU), nn.CrossEntropyLoss()
    optimizer = torch.optim.NAdam(model.parameters(), lr=4e-3)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(9):
        for inputs, targets in batches(x, F.one_hot(y, 2).float(), size=60):
            share, other = torch.distributions.Beta(0.2, 0.2).sample(), torch.randperm(60)
            optimizer.zero_grad()
            outputs = model(share * inputs + (1 - share) * inputs[other])
            criterion(outputs, share * targets + (1 - share) * targets[other]).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, x2, y2))
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


@healthy("2-hinge-of-signed-labels", family="2-circles", part="outside2")
def hinge(watch: Watch, seed: int) -> Outcome:
    """Labels are -1 and 1, and rows beyond the margin give no gradient: a plain function, told by `observe`."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("circles", seed, n_samples=3000, noise=0.25, factor=0.4)
    y, y2 = 2.0 * y - 1, 2.0 * y2 - 1
    model = nn.Sequential(mlp(2, 32, 32, 1), nn.Flatten(0))

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return (1 - outputs * targets).clamp_min(0).mean()

    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, centered=True)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=48, epochs=7):
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), 1.0)


class Coupling(nn.Module):
    """One coordinate stays, the other is stretched and moved by it; zero at the start."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which, self.net = which, mlp(1, 32, 32, 2, act=nn.Tanh)
        nn.init.zeros_(self.net[-1].weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[:, self.which], x[:, 1 - self.which]
        stretch, shift = self.net(kept[:, None]).unbind(1)
        stretch = stretch.tanh()
        moved = moved * stretch.exp() + shift
        return torch.stack((kept, moved) if self.which == 0 else (moved, kept), 1), stretch


class Flow(nn.Module):
    """Couplings in turn; the answer is each row's log-density."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Coupling(i % 2) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        grown = x.new_zeros(len(x))
        for step in self.steps:
            x, stretch = step(x)
            grown = grown + stretch
        return grown - x.square().sum(1) / 2 - math.log(2 * math.pi)


@healthy("2-flow-without-targets", family="2-moons", part="outside2")
def flow(watch: Watch, seed: int) -> Outcome:
    """The density of the moons: no targets at all, a loss of log-densities, heads that start at zero."""
    torch.manual_seed(seed)
    x, _, x2, _ = generated("moons", seed, n_samples=4000, noise=0.2)
    model = Flow(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def held() -> float:
        with torch.no_grad():
            return -model(x2).mean().item()

    first = held()
    w = watch(model, optimizer)
    for (inputs,) in batches(x, size=100, epochs=12):
        outputs = model(inputs)
        loss = -outputs.mean()
        optimizer.zero_grad()
        w.observe(loss=loss, outputs=outputs, inputs=inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    w.close()
    return Outcome(first, held(), first)  # at the start it is the plain Gaussian of the same deviations


@healthy("2-four-nets-in-one-list", family="2-moons", part="outside2")
def ensemble(watch: Watch, seed: int) -> Outcome:
    """Four small nets in a ModuleList, whose own forward is never called; one loss is the sum of theirs."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("moons", seed, n_samples=3000, noise=0.35)
    members, criterion = nn.ModuleList(mlp(2, 16, 16, 2) for _ in range(4)), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(members.parameters(), lr=8e-3)

    def held() -> float:
        with torch.no_grad():
            return criterion(sum(member(x2) for member in members) / 4, y2).item()

    first = held()
    watch(members, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=48, epochs=6):
        optimizer.zero_grad()
        sum(criterion(member(inputs), targets) for member in members).backward()
        optimizer.step()
    return Outcome(first, held(), entropy(y2))
