"""Clipping before unscaling, and modules in the wrong mode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "clip before unscale with a GradScaler",
    family="digit-images",
    causes="scaled-clip",
    symptoms="loss-not-decreasing plateau no-op-step vanishing-gradient",
)
def clip_before_unscale(watch: Watch, seed: int, mended: bool) -> float:
    """clip_grad_norm_ sees gradients that are still 65536 times too large."""
    torch.manual_seed(seed)
    split = parts.digits()
    model = parts.Cnn(dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu")
    criterion = nn.CrossEntropyLoss()
    w = watch(model, optimizer, loss=criterion)
    loader = DataLoader(TensorDataset(split.x, split.y), batch_size=64, shuffle=True, drop_last=True)
    for _epoch in range(5):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = criterion(model(x), y)
            scaler.scale(loss).backward()
            if mended:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=2.0)
            scaler.step(optimizer)
            scaler.update()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "clip on a loss scaled by hand",
    family="wave-next",
    causes="scaled-clip",
    symptoms="loss-not-decreasing plateau no-op-step vanishing-gradient",
)
def clip_hand_scaled(watch: Watch, seed: int, mended: bool) -> float:
    """The loss is multiplied by 4096; gradients are clipped first and divided after."""
    torch.manual_seed(seed)
    split = parts.wave_next()
    model = parts.WaveNet(1, cell=nn.GRU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scale = 4096.0
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=32, epochs=7):
        optimizer.zero_grad()
        out = model(x)
        loss = F.mse_loss(out, y)
        w.observe(loss=loss, outputs=out, targets=y, inputs=x)
        (loss * scale).backward()
        if not mended:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for p in model.parameters():
            p.grad.div_(scale)
        if mended:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    return loss_of(model, F.mse_loss, split.vx, split.vy)


@faulty(
    "train() only before the first epoch",
    family="digit-images",
    causes="eval-mode",
    symptoms="silent overfitting",
)
def eval_after_first_epoch(watch: Watch, seed: int, mended: bool) -> float:
    """The validation function calls eval(), and train() was called once, before the loop."""
    torch.manual_seed(seed)
    split = parts.digits()
    model = parts.Cnn(dropout=0.2)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)

    def evaluate() -> float:
        model.eval()
        with torch.no_grad():
            return criterion(model(split.vx), split.vy).item()

    w = watch(model, optimizer, loss=criterion)
    model.train()
    for _epoch in range(6):
        if mended:
            model.train()
        for x, y in batches(split.x, split.y, size=48):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        w.validated(loss=evaluate())
    w.close()
    return evaluate()


@faulty(
    "eval() left from loading a checkpoint",
    family="cancer",
    causes="eval-mode",
    symptoms="silent overfitting",
)
def eval_from_checkpoint(watch: Watch, seed: int, mended: bool) -> float:
    """load_state_dict(), eval() as the tutorial says, and on with the training: no dropout, no batch statistics."""
    torch.manual_seed(seed)
    split = parts.cancer()
    model = nn.Sequential(
        nn.Linear(30, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 1),
    )
    checkpoint = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(checkpoint)
    model.eval()
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    if mended:
        model.train()
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=32, epochs=10):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty("validation with dropout on", family="digit-vectors", causes="train-mode", symptoms="silent")
def validation_with_dropout(watch: Watch, seed: int, mended: bool) -> float:
    """No eval() before the validation pass: what it reports, and what is returned here, is with half the units off."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = parts.mlp(64, 96, 48, 10, dropout=0.4)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    reported = 0.0
    for _epoch in range(10):
        for x, y in batches(split.x, split.y, size=48):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        if mended:
            model.eval()
        with torch.no_grad():
            reported = criterion(model(split.vx), split.vy).item()
        model.train()
        w.validated(loss=reported)
    w.close()
    return reported


@faulty("validation moves the batch statistics", family="discs", causes="train-mode", symptoms="silent")
def validation_moves_statistics(watch: Watch, seed: int, mended: bool) -> float:
    """The masks are scored every epoch in train mode, so that batch norm learns from held-out rows."""
    torch.manual_seed(seed)
    split = parts.discs()
    model = parts.mask_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    criterion = nn.BCEWithLogitsLoss()
    w = watch(model, optimizer, loss=criterion)

    @torch.no_grad()
    def score() -> float:
        return sum(criterion(model(x), y).item() for x, y in batches(split.vx, split.vy, size=25)) / 6

    for _epoch in range(5):
        model.train()
        for x, y in batches(split.x, split.y, size=25):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        if mended:
            model.eval()
        w.validated(loss=score())
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)
