"""The 8x8 digits by convolutions: several norms, losses and wirings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surefoot as sf
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, loss_of
from benchmarks.diagnose.healthy.outside2.rows import blurred, digits
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


def convolutions(out: int, wide: int = 12, norm: bool = True) -> nn.Sequential:
    """Two convolutions and a linear head."""
    return nn.Sequential(
        nn.Conv2d(1, wide, 3, padding=1),
        nn.GroupNorm(3, wide) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(wide, 2 * wide, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * wide, out),
    )


@healthy("2-a-tenth-smoothed-in-bfloat16", family="2-digits-cnn", part="outside2")
def smoothed(watch: Watch, seed: int) -> Outcome:
    """Labels smoothed so that the loss ends high, bfloat16 under autocast with a scaler, one cycle of the rate."""
    torch.manual_seed(seed)
    x, y, x2, y2 = digits(seed)
    model, criterion = convolutions(10), nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=60)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in optimizer.param_groups], 234)
    for inputs, targets in batches(x, y, size=32, epochs=6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), math.log(10))


@healthy("2-a-third-of-labels-drawn-anew", family="2-digits-cnn", part="outside2")
def relabelled(watch: Watch, seed: int) -> Outcome:
    """Every batch draws a third of its labels anew: the loss stays high, the accuracy on clean digits does not."""
    torch.manual_seed(seed)
    x, y, x2, y2 = digits(seed)
    model, criterion = convolutions(10, norm=False), nn.CrossEntropyLoss()
    optimizer = sf.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    noisy = blurred(y2.repeat(8), 1 / 3)

    def held() -> float:
        return loss_of(model, criterion, x2.repeat(8, 1, 1, 1), noisy)

    first = held()
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.2)
    for _ in range(10):
        for inputs, targets in batches(x, y, size=32):
            optimizer.zero_grad()
            criterion(model(inputs), blurred(targets, 1 / 3)).backward()
            optimizer.step()
        schedule.step()
        model.eval()
        w.validated(metric=float((model(x2).argmax(1) == y2).float().mean()))  # without no_grad
        model.train()
    w.close()
    return Outcome(first, held(), math.log(10))


@healthy("2-traits-of-digits", family="2-digits-cnn", part="outside2")
def traits(watch: Watch, seed: int) -> Outcome:
    """Four answers to one image (even, above five, prime, looped), the rarer weighted; a tenth of labels is wrong."""
    torch.manual_seed(seed)
    x, y, x2, y2 = digits(seed)
    told = torch.tensor([[d % 2 == 0, d > 5, d in (2, 3, 5, 7), d in (0, 6, 8, 9)] for d in range(10)]).float()
    weight = (1 - told.mean(0)) / told.mean(0)
    wrong, wrong2 = torch.rand(len(y), 4) < 0.1, torch.rand(len(y2), 4) < 0.1
    y, y2 = (told[y] - wrong.float()).abs(), (told[y2] - wrong2.float()).abs()
    model, criterion = convolutions(4), nn.BCEWithLogitsLoss(pos_weight=weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32, epochs=4):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), min(first, 2 * binary_entropy(y2)))


@healthy("2-ink-below-borders-ignored", family="2-pixels", part="outside2")
def pixels(watch: Watch, seed: int) -> Outcome:
    """Each pixel of a noisy digit is ink or paper, [N, 2, 8, 8] against [N, 8, 8]; doubtful ones carry 255."""
    torch.manual_seed(seed)
    x, _, x2, _ = digits(seed)

    def labels(clean: Tensor) -> Tensor:
        found = (clean[:, 0] > 0.5).long()
        return found.masked_fill((clean[:, 0] - 0.5).abs() < 0.1, 255)

    y, y2 = labels(x), labels(x2)
    x, x2 = x + 0.6 * torch.randn_like(x), x2 + 0.6 * torch.randn_like(x2)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(16, 2, 1),
    )
    criterion = nn.CrossEntropyLoss(ignore_index=255, weight=torch.tensor([1.0, 1.5]))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for inputs, targets in batches(x, y, size=25):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, x2, y2))
    return Outcome(first, loss_of(model, criterion, x2, y2), math.log(2))


@healthy("2-overlap-of-masks", family="2-pixels", part="outside2")
def overlap(watch: Watch, seed: int) -> Outcome:
    """One minus the soft overlap of two masks: sigmoid outputs, a ratio for a loss, an encoder with a skip."""
    torch.manual_seed(seed)
    x, _, x2, _ = digits(seed)
    y, y2 = (x > 0.5).float(), (x2 > 0.5).float()
    x, x2 = x + 0.8 * torch.randn_like(x), x2 + 0.8 * torch.randn_like(x2)
    wide, deep = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    model = nn.ModuleDict({"wide": wide, "deep": deep, "head": nn.Conv2d(32, 1, 1)})

    def answer(inputs: Tensor) -> Tensor:
        outer = F.relu(model["wide"](inputs))
        inner = F.interpolate(F.relu(model["deep"](F.avg_pool2d(outer, 2))), scale_factor=2)
        return model["head"](torch.cat([outer, inner], 1)).sigmoid()

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        both = (outputs * targets).sum((1, 2, 3))
        return 1 - ((2 * both + 1) / (outputs.sum((1, 2, 3)) + targets.sum((1, 2, 3)) + 1)).mean()

    def held() -> float:
        with torch.no_grad():
            return criterion(answer(x2), y2).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    first = held()
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=25, epochs=6):
        outputs = answer(inputs)
        loss = criterion(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, held(), criterion(y2.mean(0).expand_as(y2), y2).item())


@healthy("2-same-digit-near", family="2-compared", part="outside2")
def near(watch: Watch, seed: int) -> Outcome:
    """A margin on distances: 1 means the same digit, so that a high target asks for a low output."""
    torch.manual_seed(seed)
    x, y, x2, y2 = digits(seed)
    body = nn.Sequential(nn.Flatten(), mlp(64, 64, 8))

    def pairs(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        other = torch.randperm(len(labels))
        alike = [torch.where((labels == one) & (torch.rand(len(labels)) < 0.9))[0] for one in labels.tolist()]
        for row in torch.where(torch.rand(len(labels)) < 0.4)[0].tolist():
            if len(alike[row]):
                other[row] = alike[row][torch.randint(len(alike[row]), ())]
        same = (labels == labels[other]).float()
        return images, images[other], (same - (torch.rand(len(same)) < 0.08).float()).abs()  # some told wrongly

    def distance(left: Tensor, right: Tensor) -> Tensor:
        return (body(left) - body(right) + 1e-6).norm(dim=1)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return (targets * outputs.square() + (1 - targets) * (1.5 - outputs).clamp_min(0).square()).mean()

    left, right, told = pairs(x2, y2)

    def held() -> float:
        with torch.no_grad():
            return criterion(distance(left, right), told).item()

    optimizer = torch.optim.Adam(body.parameters(), lr=2e-3)
    first = held()
    w = watch(body, optimizer)
    for images, labels in batches(x, y, size=64, epochs=12):
        one, another, same = pairs(images, labels)
        away = distance(one, another)
        loss = criterion(away, same)
        w.observe(loss=loss, outputs=away, targets=same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    flat = min(criterion(torch.full_like(told, d / 20), told).item() for d in range(40))
    return Outcome(first, held(), flat)
