"""What the model can hold, how long it is trained, and how hard it is clipped."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 straight line between circles",
    family="circles",
    causes="too-little-capacity",
    symptoms="plateau loss-not-decreasing",
)
def linear_circles(watch: Watch, seed: int, mended: bool) -> float:
    """nn.Linear and nn.Linear with nothing between is one linear layer: it cannot part two circles."""
    torch.manual_seed(seed)
    data = parts.circles()
    between = nn.ReLU() if mended else nn.Identity()
    model = nn.Sequential(nn.Linear(2, 32), between, nn.Linear(32, 2))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(5):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty("2 sorter of width four", family="sorting", causes="too-little-capacity", symptoms="plateau slow-convergence")
def narrow_sorter(watch: Watch, seed: int, mended: bool) -> float:
    """Four numbers a token are not enough to know twelve words in eight places."""
    torch.manual_seed(seed)
    model = parts.Sorter(32, 2) if mended else parts.Sorter(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for _ in range(400):
        x, y = parts.sorting(32)
        logits = model(x)
        loss = parts.by_token(logits, y)
        w.observe(loss=loss, outputs=logits.flatten(0, 1), targets=y.flatten(), inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, parts.by_token, *parts.sorting(300))


@faulty("2 sorter stopped early", family="sorting", causes="undertrained", symptoms="slow-convergence silent")
def sorter_stopped(watch: Watch, seed: int, mended: bool) -> float:
    """Eighty steps, where 500 bring the loss down to a fraction."""
    torch.manual_seed(seed)
    model = parts.Sorter(32, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    for _ in range(500 if mended else 80):
        x, y = parts.sorting(32)
        logits = model(x)
        loss = parts.by_token(logits, y)
        w.observe(loss=loss, outputs=logits.flatten(0, 1), targets=y.flatten(), inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, parts.by_token, *parts.sorting(300))


@faulty("2 a hundred customers learnt by heart", family="churn", causes="overtrained", symptoms="overfitting")
def hundred_customers(watch: Watch, seed: int, mended: bool) -> float:
    """A wide network on 120 rows for 150 epochs; the epoch with the least held-out loss was long ago."""
    torch.manual_seed(seed)
    data = parts.churn()
    x, y = data.x[:120], data.y[:120]
    model = parts.mlp(20, 128, 4)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8 if mended else 150):
        model.train()
        for xb, yb in parts.loader(x, y, 30):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(data.xv), data.yv).item())
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 gradients clipped to a thousandth",
    family="beats",
    causes="clip-too-tight lr-too-low optimizer-unsuited",
    symptoms="slow-convergence loss-not-decreasing",
)
def clipped_by_value(watch: Watch, seed: int, mended: bool) -> float:
    """clip_grad_norm_ at 1e-3 under SGD, after one bad night with a NaN; mended with 5."""
    torch.manual_seed(seed)
    data = parts.beats()
    model = parts.Beat()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0 if mended else 1e-3)
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)
