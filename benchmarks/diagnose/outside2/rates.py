"""The size of the step: too high, too low, none, and schedules that get it wrong."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 sorter at the rate of an sgd tutorial",
    family="sorting",
    causes="lr-too-high",
    symptoms="loss-not-decreasing plateau loss-oscillating slow-convergence",
)
def sorter_rate_high(watch: Watch, seed: int, mended: bool) -> float:
    """Adam at 0.1 on a small transformer."""
    torch.manual_seed(seed)
    model = parts.Sorter()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if mended else 0.1)
    w = watch(model, optimizer)
    for _ in range(250):
        x, y = parts.sorting(32)
        logits = model(x)
        loss = parts.by_token(logits, y)
        w.observe(loss=loss, outputs=logits.flatten(0, 1), targets=y.flatten(), inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, parts.by_token, *parts.sorting(300))


@faulty(
    "2 forecaster by adam at three tenths",
    family="demand",
    causes="lr-too-high",
    symptoms="loss-oscillating loss-spike exploding-gradient slow-convergence diverging plateau",
)
def forecaster_rate_high(watch: Watch, seed: int, mended: bool) -> float:
    """Adam at 0.3 for a GRU: the loss jumps up and down."""
    torch.manual_seed(seed)
    data = parts.demand()
    model = parts.Forecaster(24, nn.GRU)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3 if mended else 0.3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 autoencoder at the rate for fine-tuning",
    family="spectra",
    causes="lr-too-low optimizer-unsuited",
    symptoms="slow-convergence loss-not-decreasing",
)
def autoencoder_rate_low(watch: Watch, seed: int, mended: bool) -> float:
    """AdamW at 1e-5, as copied from a script that tunes a large model."""
    torch.manual_seed(seed)
    data = parts.spectra()
    model = parts.mlp(48, 64, 8, 64, 48)
    criterion = nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3 if mended else 1e-5)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 beats by sgd at a ten-thousandth",
    family="beats",
    causes="lr-too-low optimizer-unsuited",
    symptoms="slow-convergence loss-not-decreasing",
)
def beats_rate_low(watch: Watch, seed: int, mended: bool) -> float:
    """Plain Nesterov SGD at 1e-4, where 0.05 does well."""
    torch.manual_seed(seed)
    data = parts.beats()
    model = parts.Beat(12)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.02)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 if mended else 1e-4, momentum=0.9, nesterov=True)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, nn.functional.cross_entropy, data.xv, data.yv)


@faulty(
    "2 warm-up whose scheduler is never stepped",
    family="clicks",
    causes="lr-zero",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def warmup_never_stepped(watch: Watch, seed: int, mended: bool) -> float:
    """LambdaLR writes its factor at step 0, which is zero, and nobody calls scheduler.step()."""
    torch.manual_seed(seed)
    data = parts.clicks()
    model = parts.ClickNet()
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 30))
    for _ in range(3):
        for x, y in parts.loader(data.x, data.y, 64):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
            if mended:
                scheduler.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 plateau scheduler that waits for a maximum",
    family="spectra",
    causes="schedule-too-fast lr-too-low",
    symptoms="plateau slow-convergence",
)
def plateau_of_maximum(watch: Watch, seed: int, mended: bool) -> float:
    """ReduceLROnPlateau(mode="max") is fed with a loss: each fall counts as no progress, and the rate is cut."""
    torch.manual_seed(seed)
    data = parts.spectra()
    model = parts.mlp(48, 64, 8, 64, 48)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    mode = "min" if mended else "max"
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.1, patience=0)
    for _ in range(8):
        model.train()
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            held = criterion(model(data.xv), data.yv).item()
        w.validated(loss=held)
        scheduler.step(held)
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 large rate with momentum from the first step",
    family="housing",
    causes="no-warmup lr-too-high init-too-large",
    symptoms="diverging non-finite exploding-gradient loss-not-decreasing loss-spike",
)
def large_rate_at_once(watch: Watch, seed: int, mended: bool) -> float:
    """A deep ReLU network under a rate that it bears after 80 steps of warm-up, but not from the first step on."""
    torch.manual_seed(seed)
    data = parts.scaled_housing()
    model = parts.mlp(6, *[64] * 6, 1)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    warm, total = 80 if mended else 1, 5 * (len(data.x) // 32)
    w = watch(model, optimizer, loss=criterion)

    def factor(step: int) -> float:
        return min((step + 1) / warm, 1.0) * (1 - step / total)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(5):
        for x, y in parts.loader(data.x, data.y[:, None]):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
            scheduler.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv[:, None]))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv[:, None])
