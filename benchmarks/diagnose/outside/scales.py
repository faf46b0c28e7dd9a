"""Losses summed over the batch; inputs and targets far from unit scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "sum_reduction_regression",
    family="friedman",
    causes="loss-sum lr-too-high",
    symptoms="diverging non-finite exploding-gradient",
)
def sum_reduction_regression(watch: Watch, seed: int, mended: bool) -> float:
    """MSELoss(reduction="sum") with a rate that had been found for the mean."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = parts.mlp(10, 48, 1)
    criterion = nn.MSELoss(reduction="mean" if mended else "sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(20):
        for xb, yb in parts.batches(x, y, 64, 14):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


@faulty(
    "sum_over_pixels_and_batch",
    family="digits-cnn",
    causes="loss-sum",
    symptoms="loss-not-decreasing plateau diverging loss-spike",
)
def sum_over_pixels_and_batch(watch: Watch, seed: int, mended: bool) -> float:
    """Cross-entropy summed over the batch of 96, under SGD."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    model = parts.SmallCNN(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer)
    for _epoch in range(8):
        for xb, yb in parts.loader(x, y, 96):
            optimizer.zero_grad()
            logits = model(xb)
            loss = F.cross_entropy(logits, yb, reduction="mean" if mended else "sum")
            w.observe(loss=loss, outputs=logits, targets=yb, inputs=xb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, nn.CrossEntropyLoss(), xv, yv))
    w.close()
    return parts.score(model, nn.CrossEntropyLoss(), xv, yv)


@faulty(
    "sum_over_tags",
    family="multilabel",
    causes="loss-sum lr-too-high",
    symptoms="loss-oscillating plateau loss-not-decreasing",
)
def sum_over_tags(watch: Watch, seed: int, mended: bool) -> float:
    """A home-made BCE that sums over labels and rows; the epoch's loss is divided by the rows only when printed."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.multilabel()
    model = nn.Linear(20, 6)
    optimizer = sf.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)

    def bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        each = logits.clamp_min(0) - logits * labels + (-logits.abs()).exp().log1p()
        return each.mean() if mended else each.sum()

    w = watch(model, optimizer)
    for rows, labels in parts.batches(x, y, 64, 216):
        optimizer.zero_grad()
        logits = model(rows)
        loss = bce(logits, labels)
        w.observe(loss=loss, outputs=logits, targets=labels, inputs=rows)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, nn.BCEWithLogitsLoss(), xv, yv)


@faulty(
    "wine_raw_columns",
    family="wine",
    causes="input-unscaled",
    symptoms="loss-not-decreasing plateau loss-spike exploding-gradient",
)
def wine_raw_columns(watch: Watch, seed: int, mended: bool) -> float:
    """Wine as load_wine() gives it: proline counts in hundreds, hue in tenths."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.table("wine") if mended else parts.raw_table("wine")
    model = parts.mlp(13, 32, 3)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(12):
        for xb, yb in parts.loader(x, y, 16):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "cancer_raw_columns",
    family="breast-cancer",
    causes="input-unscaled",
    symptoms="loss-oscillating loss-spike plateau slow-convergence",
)
def cancer_raw_columns(watch: Watch, seed: int, mended: bool) -> float:
    """Areas in thousands beside smoothness in hundredths, into Adam with a plain function for loss."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.table("breast_cancer") if mended else parts.raw_table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 1))
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, opt)
    for xb, yb in parts.batches(x, y, 32, 200):
        logits = model(xb)
        loss = F.binary_cross_entropy_with_logits(logits, yb)
        w.observe(loss=loss, outputs=logits, targets=yb, inputs=xb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    w.close()
    return parts.score(model, nn.BCEWithLogitsLoss(), xv, yv)


@faulty(
    "images_in_bytes",
    family="digits-cnn",
    causes="input-unscaled",
    symptoms="plateau loss-spike slow-convergence loss-not-decreasing",
)
def images_in_bytes(watch: Watch, seed: int, mended: bool) -> float:
    """Pixels of 0 to 255, ToTensor() forgotten, into a CNN under SGD."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    if not mended:
        x, xv = ((t * 6.02 + 4.88) * (255 / 16) for t in (x, xv))
    model = parts.SmallCNN(8)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        for xb, yb in parts.loader(x, y, 64):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "diabetes_raw_targets",
    family="diabetes",
    causes="target-unscaled lr-too-low",
    symptoms="slow-convergence loss-not-decreasing",
)
def diabetes_raw_targets(watch: Watch, seed: int, mended: bool) -> float:
    """Disease scores of 25 to 346 as they are, under Adam: the output bias has to walk there."""
    torch.manual_seed(seed)
    x, z, xv, zv = parts.table("diabetes")
    _, raw, _, _ = parts.raw_table("diabetes")
    mean, std = raw.mean(), raw.std()
    y = z if mended else raw
    model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(20):
        for xb, yb in parts.batches(x, y, 32, 10):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
    w.close()
    if mended:
        return parts.score(model, criterion, xv, zv)
    return parts.score(model, lambda out, goal: F.mse_loss((out - mean) / std, goal), xv, zv)


@faulty(
    "prices_in_dollars",
    family="friedman",
    causes="target-unscaled",
    symptoms="diverging non-finite exploding-gradient",
)
def prices_in_dollars(watch: Watch, seed: int, mended: bool) -> float:
    """House prices in dollars under SGD with momentum: the gradients are as large as the prices."""
    torch.manual_seed(seed)
    x, z, xv, zv = parts.friedman()
    y, yv = (z, zv) if mended else (250e3 + 80e3 * z, 250e3 + 80e3 * zv)
    model = parts.mlp(10, 48, 1)
    mse = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=mse)
    for epoch in range(20):
        for xb, yb in parts.batches(x, y, 64, 14):
            optimizer.zero_grad()
            loss = mse(model(xb), yb)
            loss.backward()
            optimizer.step()
        if epoch % 2:
            w.validated(loss=parts.score(model, mse, xv, yv))
    w.close()
    return parts.score(model, mse, xv, yv) / (1.0 if mended else 80e3**2)
