"""Decay, dropout or penalty beyond all measure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "adam_l2_digits",
    family="digits-cnn",
    causes="over-regularised",
    symptoms="plateau slow-convergence loss-not-decreasing",
)
def adam_l2_digits(watch: Watch, seed: int, mended: bool) -> float:
    """weight_decay=0.3 in Adam, where it is an L2 penalty and not AdamW's decay."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    model = parts.SmallCNN(8)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4 if mended else 0.3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(7):
        for xb, yb in parts.loader(x, y, 64):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty("l1_penalty_regression", family="friedman", causes="over-regularised", symptoms="plateau loss-not-decreasing")
def l1_penalty_regression(watch: Watch, seed: int, mended: bool) -> float:
    """An L1 penalty of 0.05 on the sum over all weights: far more than the error it stands beside."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = parts.mlp(10, 48, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    strength = 1e-4 if mended else 0.05
    w = watch(model, optimizer)
    for xb, yb in parts.batches(x, y, 64, 280):
        optimizer.zero_grad()
        out = model(xb)
        loss = F.mse_loss(out, yb) + strength * sum(p.abs().sum() for p in model.parameters())
        w.observe(loss=loss, outputs=out, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


@faulty(
    "dropout_nine_tenths",
    family="digits-mlp",
    causes="over-regularised",
    symptoms="slow-convergence plateau",
)
def dropout_nine_tenths(watch: Watch, seed: int, mended: bool) -> float:
    """Dropout(0.9) was read as the share to keep."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    p = 0.1 if mended else 0.9
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 10)
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(10):
        model.train()
        for xb, yb in parts.batches(x, y, 64, 21):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(xv), yv).item())
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "decoupled_decay_of_ten",
    family="char-gru",
    causes="over-regularised",
    symptoms="plateau loss-not-decreasing slow-convergence",
)
def decoupled_decay_of_ten(watch: Watch, seed: int, mended: bool) -> float:
    """AdamW with weight_decay=10, a slip for 0.01, at a rate of 0.015: a seventh of every weight goes each step."""
    torch.manual_seed(seed)
    (x, y, xv, yv), vocabulary = parts.text()
    model = parts.CharGRU(vocabulary, 48)
    optimizer = sf.optim.AdamW(model.parameters(), lr=0.015, weight_decay=0.01 if mended else 10.0, clip_norm=5.0)
    criterion = parts.Tokens()
    w = watch(model, optimizer, loss=criterion)
    for xb, yb in parts.batches(x, y, 32, 120):
        optimizer.zero_grad()
        criterion(model(xb), yb).backward()
        optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv)
