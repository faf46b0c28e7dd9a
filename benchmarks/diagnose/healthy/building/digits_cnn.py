"""Digits as images, a convolutional network, classification."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="digits-cnn", part="building")


def images():
    """[N, 1, 8, 8] of mean 0 and deviation 1, and labels."""
    x, y, vx, vy = data.digits()
    shift, scale = x.mean(), x.std()
    return ((x - shift) / scale).view(-1, 1, 8, 8), y, ((vx - shift) / scale).view(-1, 1, 8, 8), vy


def network(norm=nn.BatchNorm2d, out=10):
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), norm(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), norm(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(96, out),
    )  # fmt: skip


@sound("one-cycle")
def one_cycle(watch, seed):
    """The rate rises 25-fold and falls to nearly nothing; momentum goes the other way."""
    torch.manual_seed(seed)
    x, y, vx, vy = images()
    model, criterion = network(), nn.CrossEntropyLoss(label_smoothing=0.05)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=220)
    for _ in range(10):
        for inputs, labels in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(vx), vy).item())
        model.train()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("swa-and-refresh-of-batch-norm")
def swa(watch, seed):
    """Weights are averaged late; then a pass in training mode, without gradients, refreshes batch norm's statistics."""
    torch.manual_seed(seed)
    x, y, vx, vy = images()
    model, criterion = network(), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    average = torch.optim.swa_utils.AveragedModel(model)
    for epoch in range(10):
        for inputs, labels in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        if epoch >= 5:
            average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())
    sf.optim.refresh_batch_norm(model, [b for (b,) in batches(x, size=64)])
    model.eval()
    with torch.no_grad():
        w.validated(loss=criterion(model(vx), vy).item(), metric=(model(vx).argmax(1) == vy).float().mean().item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("frozen-batch-norm")
def frozen_batch_norm(watch, seed):
    """Fine-tuning on other labels (even or odd) with batch norm in eval mode on purpose, its weights frozen."""
    torch.manual_seed(seed)
    x, y, vx, vy = images()
    model, criterion = network(), nn.CrossEntropyLoss()
    study = torch.optim.Adam(model.parameters(), lr=3e-3)
    for inputs, labels in batches(x, y, size=64, epochs=4):
        study.zero_grad()
        criterion(model(inputs), labels).backward()
        study.step()
    model[-1] = nn.Linear(96, 2)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    even, veven, criterion = y % 2, vy % 2, nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, x, even)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=7e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8):
        model.train()
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for inputs, labels in batches(x, even, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(vx), veven).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, even), entropy(even))


@sound("autocast-bf16")
def autocast(watch, seed):
    """The forward pass in bfloat16."""
    torch.manual_seed(seed)
    x, y, _, _ = images()
    model, criterion = network(lambda c: nn.GroupNorm(4, c)), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=96, epochs=14):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("scaler-with-skipped-steps")
def scaler(watch, seed):
    """A gradient scaler that starts too high: its first steps overflow and are skipped, as it is meant to be."""
    torch.manual_seed(seed)
    x, y, _, _ = images()
    model, criterion = network(), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    scale = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=100)
    for inputs, labels in batches(x, y, size=64, epochs=10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = criterion(model(inputs), labels)
        scale.scale(loss).backward()
        scale.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scale.step(optimizer)
        scale.update()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("linear-probe")
def linear_probe(watch, seed):
    """A random, frozen body; only the head learns, and only the head is in the optimizer."""
    torch.manual_seed(seed)
    x, y, _, _ = images()
    body, head, criterion = network(), nn.Linear(96, 10), nn.CrossEntropyLoss()
    study = torch.optim.Adam(body.parameters(), lr=3e-3)
    for inputs, labels in batches(x, (y > 4).long(), size=64, epochs=4):
        study.zero_grad()
        criterion(body(inputs)[:, :2], labels).backward()
        study.step()
    body[-1] = nn.Identity()
    body.requires_grad_(False).eval()
    model = nn.Sequential(body, head)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=64, epochs=15):
        optimizer.zero_grad()
        criterion(head(body(inputs)), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("contrastive-crops")
def contrastive(watch, seed):
    """SimCLR-like: two noisy views of an image shall be alike. The loss starts near ln(127), not at ln(classes)."""
    torch.manual_seed(seed)
    x, _, _, _ = images()
    model = network(out=16)
    mask = torch.eye(128, dtype=torch.bool)

    def loss_on(rows):
        views = torch.cat([rows + 0.3 * torch.randn_like(rows), rows.roll(1, 3) + 0.3 * torch.randn_like(rows)])
        z = F.normalize(model(views), dim=1)
        alike = (z @ z.T / 0.2).masked_fill(mask, float("-inf"))
        twins = torch.arange(128).roll(64)
        return F.cross_entropy(alike, twins)

    def measured():
        torch.manual_seed(1)
        with torch.no_grad():
            return sum(loss_on(rows).item() for (rows,) in batches(x, size=64)) / 22

    first = measured()
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=None)
    for (rows,) in batches(x, size=64, epochs=6):
        loss = loss_on(rows)
        w.observe(loss=loss, inputs=rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, measured(), torch.tensor(127.0).log().item())
