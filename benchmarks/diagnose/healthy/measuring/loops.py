"""Loops on the other files' data: scalers, averages, stages, cycles, early stopping."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of, variance
from benchmarks.diagnose.healthy.measuring.embedded import Strand, genes
from benchmarks.diagnose.healthy.measuring.points import ringed
from benchmarks.diagnose.healthy.measuring.shapes import network
from benchmarks.diagnose.healthy.measuring.tabular import patients
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, part="measuring")


@sound("half-precision-with-scaler", family="shapes-cnn")
def scaler(watch, seed):
    """float16 with a scaler that starts at 2 to the 20th: the first steps overflow and are skipped."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 900)
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(4, y.shape), y)
    model, criterion = network(width=8), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.012)
    w = watch(model, optimizer, loss=criterion)
    scale = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=50)
    for inputs, labels in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = criterion(model(inputs), labels)
        scale.scale(loss).backward()
        scale.step(optimizer)
        scale.update()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("shapes-laid-over-each-other", family="shapes-cnn")
def mixed(watch, seed):
    """Mixup: pairs of images and of labels."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1000)
    model, criterion = network(), nn.CrossEntropyLoss()
    labelled = F.one_hot(y, 4).float()

    def pairs(inputs, labels):
        share, other = torch.rand(len(inputs), 1, 1, 1), torch.randperm(len(inputs))
        return share * inputs + (1 - share) * inputs[other], share[:, 0, 0] * labels + (1 - share[:, 0, 0]) * labels[
            other
        ]

    some = pairs(x, labelled)
    first = loss_of(model, criterion, *some)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 240)
    for inputs, labels in batches(x, labelled, size=50, epochs=12):
        inputs, labels = pairs(inputs, labels)
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, *some), entropy(y))


@sound("clear-images-first", family="shapes-cnn")
def clear_first(watch, seed):
    """Images with little noise first, then with more: the loss rises with each stage, and stays up."""
    torch.manual_seed(seed)
    stages = [data.shapes(seed, 600, noise=noise)[:2] for noise in (0.1, 0.25, 0.4)]
    model, criterion = network(), nn.CrossEntropyLoss()
    x, y = (torch.cat(parts) for parts in zip(*stages, strict=True))
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for stage in range(3):
        seen = 600 * (stage + 1)
        for inputs, labels in batches(x[:seen], y[:seen], size=50, epochs=4):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("slow-copy-validated", family="rings-deep")
def slow_copy(watch, seed):
    """A slow copy of the weights is validated after each epoch."""
    torch.manual_seed(seed)
    x, y = ringed(seed)
    vx, vy = ringed(seed + 1000, 400)
    model, criterion = mlp(2, 48, 48, 3), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    slow = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(12):
        for inputs, labels in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
            with torch.no_grad():
                for kept, now in zip(slow.parameters(), model.parameters(), strict=True):
                    kept.lerp_(now, 0.03)
        with torch.no_grad():
            w.validated(loss=F.cross_entropy(slow(vx), vy).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("triangular-rate-and-clipped-entries", family="rings-deep")
def triangular(watch, seed):
    """A cyclic rate, weights split into length and direction, and gradients clipped entry by entry."""
    torch.manual_seed(seed)
    x, y = ringed(seed)
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Linear(2, 48)), nn.ELU(), norm(nn.Linear(48, 48)), nn.ELU(), nn.Linear(48, 3))
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    high = optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, high / 20, high, step_size_up=40, cycle_momentum=False)
    for inputs, labels in batches(x, y, size=50, epochs=12):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("stops-early", family="diabetes-mlp")
def stops_early(watch, seed):
    """Validated at every step with gradients on; stops when nothing has been gained for a while."""
    torch.manual_seed(seed)
    x, y = patients()
    y = data.standardised(y)
    vx, vy, x, y = x[:140], y[:140], x[140:], y[140:]
    model, criterion = mlp(10, 6, 1, act=nn.Tanh), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    best, since = float("inf"), 0
    for inputs, targets in batches(x, y, size=50, epochs=60):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        loss = criterion(model(vx), vy)
        w.validated(loss=loss.item())
        best, since = (loss.item(), 0) if loss.item() < best else (best, since + 1)
        if since > 40:
            break
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("two-answers-one-of-them-later", family="genes-textcnn")
def later(watch, seed):
    """A second task joins half-way: until then its head has no gradient, then the loss leaps up."""
    torch.manual_seed(seed)
    x, y = genes(seed)
    model = Strand()
    model.number = nn.Linear(6, 1)
    letters = (x == 0).float().mean(1, keepdim=True) * 4 - 1
    criterion = nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    w = watch(model, optimizer)
    for step, (inputs, labels, share) in enumerate(batches(x, y, letters, size=50, epochs=6)):
        found = model(inputs)
        loss = criterion(found, labels)
        if step >= 180:
            loss = loss + 0.3 * F.mse_loss(model.number(found), share)
        w.observe(loss=loss, outputs=found, targets=labels, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))
