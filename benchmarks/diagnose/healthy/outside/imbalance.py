"""Classes of unequal size, and losses that weigh them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, loss_of
from benchmarks.diagnose.healthy.data import drawn, shapes, standardised, table
from benchmarks.diagnose.healthy.outside.made import blobs, flipped, rare
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-rare-events-learnt", family="o-rare-class", part="outside")
def rare_events(watch: Watch, seed: int) -> Outcome:
    """One row in thirty is positive; many batches of 16 hold no positive at all. Targets [N, 1] as floats."""
    torch.manual_seed(seed)
    x, y = rare(seed, 16 * 450 + 4000, 1 / 30)
    y = y[:, None].float()
    xv, yv, x, y = x[:4000], y[:4000], x[4000:], y[4000:]
    model, criterion = mlp(12, 24, 1), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=16):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), binary_entropy(yv))


@healthy("o-class-weights", family="o-rare-class", part="outside")
def class_weights(watch: Watch, seed: int) -> Outcome:
    """Nine to one, and the loss weighs the rare class nine times."""
    torch.manual_seed(seed)
    x, y = rare(seed, 64 * 200 + 4000, 0.1, columns=20, apart=2.5)
    xv, yv, x, y = x[:4000], y[:4000], x[4000:], y[4000:]
    model = mlp(20, 32, 2, act=nn.GELU)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0]))
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, 200)
    for inputs, targets in batches(x, y, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    base = criterion(torch.zeros(len(yv), 2), yv).item()
    return Outcome(first, loss_of(model, criterion, xv, yv), base)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy that counts what is answered well for next to nothing."""
    each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return ((1 - (-each).exp()).square() * each).mean()


@healthy("o-focal-loss-on-masks", family="o-images-cnn", part="outside")
def focal_masks(watch: Watch, seed: int) -> Outcome:
    """A few pixels in a hundred belong to the shape; the loss is about 0.05 at the end, and says much all the same."""
    torch.manual_seed(seed)
    x, _, mask = shapes(seed, 16 * 160 + 256, noise=0.6)
    xv, yv, x, y = x[:256], mask[:256], x[256:], mask[256:]
    model = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 1, 1)
    )
    nn.init.constant_(model[-1].bias, -2.0)  # the prior of the rare class, as the focal paper has it
    first = loss_of(model, focal, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with watch(model, optimizer) as w:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 160)
        for inputs, targets in batches(x, y, size=16):
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = focal(outputs, targets)
            w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
            loss.backward()
            optimizer.step()
            schedule.step()
    base = min(focal(torch.full_like(yv, -b / 10), yv).item() for b in range(0, 40))
    return Outcome(first, loss_of(model, focal, xv, yv), base)


@healthy("o-long-tailed-classes", family="o-rare-class", part="outside")
def long_tailed(watch: Watch, seed: int) -> Outcome:
    """Eight classes of which the first holds two thirds of the rows; smoothed labels keep the loss above 0.6."""
    torch.manual_seed(seed)
    x, y = blobs(seed, 40000, columns=24, classes=8, spread=1.5)
    kept = torch.rand(len(y), generator=drawn(seed + 1)) < torch.tensor([1.0] + [0.07] * 7)[y]
    x, y = x[kept], flipped(y[kept], 0.05, seed, 8)
    xv, yv, x, y = x[:2000], y[:2000], x[2000:], y[2000:]
    model, criterion = mlp(24, 48, 8, norm=nn.LayerNorm), nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 220)
    for inputs, targets in batches(x, y, size=24, epochs=2):
        if schedule.last_epoch == 220:
            break
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    smoothed = 0.9 * yv.bincount(minlength=8) / len(yv) + 0.1 / 8
    base = criterion(smoothed.log().expand(len(yv), 8), yv).item()
    return Outcome(first, loss_of(model, criterion, xv, yv), base)


@healthy("o-one-hot-features", family="o-tables", part="outside")
def one_hot(watch: Watch, seed: int) -> Outcome:
    """Five categories as 60 columns of zeros and ones, of which 55 are zero in each row; a linear answer."""
    torch.manual_seed(seed)
    g = drawn(seed)
    codes = torch.randint(12, (32 * 300 + 3000, 5), generator=g)
    x = F.one_hot(codes, 12).flatten(1).float()
    chance = (x @ torch.randn(60, generator=g)).sigmoid()
    y = (torch.rand(len(x), generator=g) < chance).float()[:, None]
    xv, yv, x, y = x[:3000], y[:3000], x[3000:], y[3000:]
    model, criterion = nn.Linear(60, 1), nn.BCEWithLogitsLoss()
    nn.init.zeros_(model.weight)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.2)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), binary_entropy(yv))


@healthy("o-second-order", family="o-tables", part="outside")
def second_order(watch: Watch, seed: int) -> Outcome:
    """LBFGS with a closure on the whole table: a few dozen steps, of which the last change nothing."""
    torch.manual_seed(seed)
    x, y = table("breast_cancer")
    x, y = standardised(x), y.float()[:, None]
    y = torch.where(torch.rand(y.shape, generator=drawn(seed + 2)) < 0.1, 1 - y, y)
    model = nn.Linear(30, 1)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        fit = F.binary_cross_entropy_with_logits(outputs, targets)
        return fit + 0.01 * sum(p.square().sum() for p in model.parameters())

    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=2, history_size=8)
    w = watch(model, optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        outputs = model(x)
        loss = criterion(outputs, y)
        w.observe(loss=loss, outputs=outputs, targets=y, inputs=x)
        loss.backward()
        return loss

    for _ in range(80):
        optimizer.step(closure)
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))
