"""Trainings of a part: heads, adapters, frozen layers, students of a teacher."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of, variance
from benchmarks.diagnose.healthy.data import digits, drawn, shapes
from benchmarks.diagnose.healthy.outside.made import blobs, flipped
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


def pretrained(model: nn.Module, criterion: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float = 3e-3) -> None:
    """What was done before the training that is watched."""
    optimizer, size = torch.optim.Adam(model.parameters(), lr=rate), 64
    epochs = math.ceil(steps / (len(x) // size))
    for inputs, targets in batches(x, y, size=size, epochs=epochs):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()


@healthy("o-head-only", family="o-tuned", part="outside")
def head_only(watch: Watch, seed: int) -> Outcome:
    """The trunk has learnt the digits below 5 and is frozen; only a new head of 10 is in the optimizer."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    trunk = mlp(64, 96, 96, 5)
    pretrained(trunk, nn.CrossEntropyLoss(), x[y < 5], y[y < 5], 60, rate=1e-3)
    trunk[-1] = nn.Identity()
    trunk.requires_grad_(False)
    model = nn.Sequential(trunk, nn.Linear(96, 10))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model[1].parameters(), lr=5e-2)
    with watch(model, optimizer, loss=criterion) as w:
        for _ in range(12):
            for inputs, targets in batches(x, y, size=64):
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                optimizer.step()
            w.validated(loss=loss_of(model, criterion, xv, yv))
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


@functools.cache
def grown(seed: int) -> dict[str, Tensor]:
    """The state of a small convolutional net with batch norm that tells shapes apart."""
    torch.manual_seed(1000 + seed)
    x, y, _ = shapes(seed, 2048, noise=0.2)
    model = convolutional()
    pretrained(model, nn.CrossEntropyLoss(), x, y, 96, rate=5e-3)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def convolutional() -> nn.Sequential:
    """Two convolutions with batch norm, mean over places, a head for four classes."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


@healthy("o-frozen-batch-norm", family="o-tuned", part="outside")
def frozen_norm(watch: Watch, seed: int) -> Outcome:
    """Tuned to images with more noise; batch norm stays in evaluation mode and its weights are frozen, on purpose."""
    state = grown(seed)
    torch.manual_seed(seed)
    x, y, _ = shapes(seed + 50, 32 * 120 + 512, noise=0.4)
    y = flipped(y, 0.15, seed, 4)
    xv, yv, x, y = x[:512], y[:512], x[512:], y[512:]
    model, criterion = convolutional(), nn.CrossEntropyLoss()
    model.load_state_dict(state)
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.requires_grad_(False)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    model.train()
    for norm in norms:
        norm.eval()
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-first-layers-frozen", family="o-tuned", part="outside")
def first_frozen(watch: Watch, seed: int) -> Outcome:
    """The first convolution is frozen and stays in the optimizer; the rest learns four new names of the shapes."""
    state = grown(seed)
    torch.manual_seed(seed)
    x, y, _ = shapes(seed + 60, 32 * 120 + 512, noise=0.2)
    y = flipped((y + 1) % 4, 0.15, seed, 4)
    xv, yv, x, y = x[:512], y[:512], x[512:], y[512:]
    model, criterion = convolutional(), nn.CrossEntropyLoss()
    model.load_state_dict(state)
    model[0].requires_grad_(False)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


class Adapted(nn.Module):
    """A frozen linear layer, and beside it a product of two thin ones, of which the second starts at zero."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + 2.0 * self.up(self.down(x))


@healthy("o-adapters-of-low-rank", family="o-tuned", part="outside")
def adapters(watch: Watch, seed: int) -> Outcome:
    """Thin adapters on frozen layers: at first half of them get no gradient but zero."""
    torch.manual_seed(seed)
    g = drawn(seed)
    x = torch.randn(64 * 200 + 1500, 12, generator=g)
    way, turn = torch.randn(12, 3, generator=g) / 3.5, torch.randn(12, 1, generator=g) @ torch.randn(1, 3, generator=g)
    old, new = (torch.tanh(x @ a) + 0.3 * torch.randn(len(x), 3, generator=g) for a in (way, way + 0.2 * turn))
    model, criterion = mlp(12, 64, 64, 3, act=nn.GELU), nn.MSELoss()
    pretrained(model, criterion, x[:6400], old[:6400], 200)
    for place in (0, 2, 4):
        model[place] = Adapted(model[place], 4)
    first = loss_of(model, criterion, x[:1500], new[:1500])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for inputs, targets in batches(x[1500:], new[1500:], size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x[:1500], new[:1500]), variance(new[:1500]))


class TwoHeads(nn.Module):
    """Classes, and beside them a guess of the first inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = mlp(16, 48, 48)
        self.classes, self.extra = nn.Linear(48, 5), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x).relu()
        return self.classes(h), self.extra(h)


@healthy("o-extra-head-weighs-nothing", family="o-tuned", part="outside")
def extra_head(watch: Watch, seed: int) -> Outcome:
    """The loss of a second head has weight 0 in this run, as in one arm of an ablation."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 48 * 220 + 2000, classes=5)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, weight = TwoHeads(), 0.0

    def main_loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs[0], targets)

    first = loss_of(model, main_loss, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=48):
        optimizer.zero_grad()
        classes, extra = model(inputs)
        loss = F.cross_entropy(classes, targets) + weight * F.mse_loss(extra, inputs[:, :4])
        w.observe(loss=loss, outputs=classes, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, main_loss, xv, yv), entropy(yv))


@healthy("o-student-of-soft-targets", family="o-tuned", part="outside")
def student(watch: Watch, seed: int) -> Outcome:
    """Distillation: log-probabilities at temperature 4 against a teacher's, with KLDivLoss and noisy images."""
    torch.manual_seed(seed)
    x, y, xv, _ = digits()
    teacher = mlp(64, 64, 10, drop=0.3)
    pretrained(teacher, nn.CrossEntropyLoss(label_smoothing=0.05), x, y, 300)
    teacher.eval().requires_grad_(False)
    model = mlp(64, 24, 10)
    divergence = nn.KLDivLoss(reduction="batchmean")

    def measured() -> float:
        with torch.no_grad():
            return divergence((model(xv) / 4).log_softmax(1), (teacher(xv) / 4).softmax(1)).item()

    with torch.no_grad():
        soft = (teacher(xv) / 4).softmax(1)
        base = divergence(soft.mean(0).log().expand_as(soft), soft).item()
    first = measured()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    w = watch(model, optimizer, loss=divergence)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 22 * 14)
    for (inputs,) in batches(x, size=64, epochs=14):
        inputs = (inputs + 0.1 * torch.randn_like(inputs)).clamp(0, 1)
        optimizer.zero_grad()
        divergence((model(inputs) / 4).log_softmax(1), (teacher(inputs) / 4).softmax(1)).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, measured(), base)


@healthy("o-tasks-take-turns", family="o-tuned", part="outside")
def turns(watch: Watch, seed: int) -> Outcome:
    """One trunk, two heads, and a batch of either task in turn: each head has no gradient in every other step."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 48 * 300 + 2000, classes=6)
    tasks = F.one_hot(y, 6).float().split(3, 1)
    model, criterion = nn.ModuleList([mlp(16, 48, 32), nn.Linear(32, 3), nn.Linear(32, 3)]), nn.BCEWithLogitsLoss()

    @torch.no_grad()
    def measured() -> float:
        h = model[0](x[:2000]).relu()
        return sum(criterion(model[1 + task](h), tasks[task][:2000]).item() for task in range(2)) / 2

    first = measured()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, *targets) in enumerate(batches(x[2000:], *(task[2000:] for task in tasks), size=48)):
        optimizer.zero_grad()
        criterion(model[1 + step % 2](model[0](inputs).relu()), targets[step % 2]).backward()
        optimizer.step()
    w.close()
    base = sum(binary_entropy(task[:2000]) for task in tasks) / 2
    return Outcome(first, measured(), base)
