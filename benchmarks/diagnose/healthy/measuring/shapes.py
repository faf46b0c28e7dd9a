"""Drawn images of shapes: which shape it is, by a convolutional network; and where it is, pixel by pixel."""

from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import Residual
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of
from benchmarks.diagnose.healthy.registry import Outcome, healthy

which = partial(healthy, family="shapes-cnn", part="measuring")
where = partial(healthy, family="shapes-masks", part="measuring")


def network(norm=nn.BatchNorm2d, width=16):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1), norm(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), norm(2 * width), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4),
    )  # fmt: skip


@which("nesterov-with-step-decay")
def step_decay(watch, seed):
    """The rate falls tenfold twice, and the loss drops each time."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1200)
    vx, vy, _ = data.shapes(seed + 1000, 300)
    x, vx = (x - 0.3) / 0.25, (vx - 0.3) / 0.25
    model, criterion = network(), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 9], gamma=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    for _ in range(11):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            found = model(vx)
            w.validated(loss=criterion(found, vy), metric=(found.argmax(1) == vy).float().mean(), higher_is_better=True)
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@which("wrong-labels-under-dropout")
def wrong_labels(watch, seed):
    """A fifth of the labels is wrong, and half of the features is dropped: the loss ends far above zero."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 2000)
    y = torch.where(torch.rand(len(y)) < 0.2, torch.randint(4, y.shape), y)
    model, criterion = network(), nn.CrossEntropyLoss()
    model.insert(8, nn.Dropout(0.5))
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * 40)
    for inputs, labels in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@which("training-loss-evaluated-each-epoch")
def logs_training_loss(watch, seed):
    """The loss is logged on the training set after each epoch, without gradients, in training mode."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1000)
    model, criterion = network(lambda width: nn.GroupNorm(4, width)), nn.CrossEntropyLoss(label_smoothing=0.05)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    log = []
    for _ in range(12):
        for inputs, labels in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        with torch.no_grad():
            log.append(criterion(model(x), y).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@which("four-images-a-batch")
def four_images(watch, seed):
    """Batches of four with a layer of group norm: a loss that jumps between zero and two."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1500)
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(4, y.shape), y)
    model, criterion = network(lambda width: nn.GroupNorm(1, width), width=8), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=1125)
    for inputs, labels in batches(x, y, size=4, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@which("bfloat16-and-accumulation")
def bfloat16(watch, seed):
    """Autocast to bfloat16 and two backward passes a step."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1200)
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(4, y.shape), y)
    model, criterion = network(), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = sf.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for count, (inputs, labels) in enumerate(batches(x, y, size=30, epochs=6), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = criterion(model(inputs), labels) / 2
        loss.backward()
        if count % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@which("frozen-body-new-head")
def frozen_body(watch, seed):
    """A body trained on half of the classes, frozen, its batch norm in eval mode; all of it is in the optimizer."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1000)
    model, criterion = network(), nn.CrossEntropyLoss()
    study = torch.optim.Adam(model.parameters(), lr=0.01)
    for inputs, labels in batches(x, y % 2, size=50, epochs=3):
        study.zero_grad()
        criterion(model(inputs), labels).backward()
        study.step()
    model.requires_grad_(False)
    model[-1] = nn.Linear(32, 4)
    body = model[:-1].eval()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(10):
        for inputs, labels in batches(x, y, size=50):
            with torch.no_grad():
                features = body(inputs)
            optimizer.zero_grad()
            criterion(model[-1](features), labels).backward()
            optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@which("weights-averaged-at-the-end")
def averaged(watch, seed):
    """Stochastic weight averaging by torch: update_bn runs the averaged copy, in training mode, without gradients."""
    torch.manual_seed(seed)
    x, y, _ = data.shapes(seed, 1000)
    y = torch.where(torch.rand(len(y)) < 0.2, torch.randint(4, y.shape), y)
    model, criterion = network(width=8), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    average = torch.optim.swa_utils.AveragedModel(model)
    constant = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.5 * optimizer.param_groups[0]["lr"], anneal_epochs=3)
    for epoch in range(12):
        for inputs, labels in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        if epoch >= 6:
            average.update_parameters(model)
            constant.step()
    torch.optim.swa_utils.update_bn(DataLoader(TensorDataset(x, y), batch_size=100), average)
    w.close()
    return Outcome(first, loss_of(average, criterion, x, y), entropy(y))


def painter(width=12):
    return nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2), nn.ReLU(), Residual(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        nn.Conv2d(width, 1, 1),
    )  # fmt: skip


@where("one-pixel-in-eight")
def segmentation(watch, seed):
    """One pixel in eight belongs to the shape; BCE per pixel is low from the start, and falls."""
    torch.manual_seed(seed)
    x, _, mask = data.shapes(seed, 600, noise=0.35)
    model, criterion = painter(), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, mask, size=30, epochs=6):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, mask), binary_entropy(mask.flatten()[:, None]))


@where("dice-loss")
def dice(watch, seed):
    """One minus an overlap, within [0, 1], as a plain function."""
    torch.manual_seed(seed)
    x, _, mask = data.shapes(seed, 600, noise=0.35)
    model = painter()

    def overlap_missed(found, targets):
        share = found.sigmoid()
        both, each = (share * targets).sum((1, 2, 3)), (share + targets).sum((1, 2, 3))
        return (1 - (2 * both + 1) / (each + 1)).mean()

    first = loss_of(model, overlap_missed, x, mask)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, mask, size=30, epochs=6):
        found = model(inputs)
        loss = overlap_missed(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    w.close()
    every = torch.full_like(mask, 20.0)
    return Outcome(first, loss_of(model, overlap_missed, x, mask), overlap_missed(every, mask).item())


@where("noise-taken-away")
def denoised(watch, seed):
    """Targets are clean images in [0, 1]: their variance, and so the loss, is small from the start."""
    torch.manual_seed(seed)
    _, _, mask = data.shapes(seed, 500)
    noisy = mask + 0.5 * torch.randn_like(mask)
    model = nn.Sequential(painter(), nn.Sigmoid())
    criterion = nn.MSELoss()
    first = loss_of(model, criterion, noisy, mask)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 150)
    for inputs, targets in batches(noisy, mask, size=20, epochs=6):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, noisy, mask), float(mask.var()))
