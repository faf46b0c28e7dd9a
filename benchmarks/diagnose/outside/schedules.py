"""The rate over time: zero, at its end too early, or too high at the start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, MultiStepLR, PolynomialLR, StepLR

import surefoot as sf
from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "warmup_integer_division", family="digits-mlp", causes="lr-zero", symptoms="no-op-step loss-not-decreasing plateau"
)
def warmup_integer_division(watch: Watch, seed: int, mended: bool) -> float:
    """`step // warmup` in the warm-up's lambda, stepped once an epoch: the factor is 0 all along."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = parts.mlp(64, 48, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    warmup = 10
    scheduler = LambdaLR(optimizer, lambda e: min(1.0, (e + 1) / 2 if mended else e // warmup))
    for _epoch in range(8):
        for xb, yb in parts.batches(x, y, 64, 21):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        scheduler.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "polynomial_ends_after_an_epoch",
    family="friedman",
    causes="lr-zero schedule-too-fast",
    symptoms="plateau no-op-step slow-convergence",
)
def polynomial_ends_after_an_epoch(watch: Watch, seed: int, mended: bool) -> float:
    """total_iters is the length of the loader, without the factor of epochs: the rate is 0 from epoch two on."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    train_loader = parts.loader(x, y, 64)
    epochs = 20
    net = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 1))
    opt = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
    w = watch(net, opt)
    sched = PolynomialLR(opt, total_iters=len(train_loader) * (epochs if mended else 1))
    for _ in range(epochs):
        for xb, yb in train_loader:
            opt.zero_grad()
            pred = net(xb)
            loss = F.mse_loss(pred, yb)
            w.observe(loss=loss, outputs=pred, targets=yb, inputs=xb)
            loss.backward()
            opt.step()
            sched.step()
    w.close()
    return parts.score(net, nn.MSELoss(), xv, yv)


@faulty(
    "resumed_past_the_cosine",
    family="digits-autoencoder",
    causes="lr-zero",
    symptoms="no-op-step loss-not-decreasing plateau",
)
def resumed_past_the_cosine(watch: Watch, seed: int, mended: bool) -> float:
    """Trains anew, but the schedule goes on from an old checkpoint's step, past its end: the rate is zero."""
    torch.manual_seed(seed)
    x, _, xv, _ = parts.digits()
    model = parts.AutoEncoder()
    optimizer = sf.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    mse = nn.MSELoss()
    w = watch(model, optimizer, loss=mse)
    done = 0 if mended else 4000  # steps of the checkpoint
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    sched = LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / 260), last_epoch=done - 1)
    for batch, _same in parts.batches(x, x, 64, 260):
        optimizer.zero_grad()
        mse(model(batch), batch).backward()
        optimizer.step()
        sched.step()
    w.close()
    return parts.score(model, mse, xv, xv)


@faulty(
    "step_lr_per_batch",
    family="digits-cnn",
    causes="schedule-too-fast lr-too-low",
    symptoms="plateau slow-convergence loss-not-decreasing",
)
def step_lr_per_batch(watch: Watch, seed: int, mended: bool) -> float:
    """StepLR(step_size=4) was meant in epochs; scheduler.step() stands inside the batch loop."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    model = parts.SmallCNN(8)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    scheduler = StepLR(optimizer, step_size=4, gamma=0.5)
    for _epoch in range(8):
        model.train()
        for xb, yb in parts.batches(x, y, 64, 21):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
            if not mended:
                scheduler.step()
        if mended:
            scheduler.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "exponential_per_batch_gru",
    family="char-gru",
    causes="schedule-too-fast",
    symptoms="plateau slow-convergence",
)
def exponential_per_batch_gru(watch: Watch, seed: int, mended: bool) -> float:
    """gamma=0.9 an epoch became 0.9 a batch: after fifty batches nothing moves."""
    torch.manual_seed(seed)
    (x, y, xv, yv), vocabulary = parts.text()
    model = parts.CharGRU(vocabulary)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.015)
    criterion = parts.Tokens()
    w = watch(model, optimizer, loss=criterion)
    scheduler = ExponentialLR(optimizer, gamma=0.9)
    for step, (xb, yb) in enumerate(parts.batches(x, y, 32, 176), start=1):
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        if not mended or step % 22 == 0:
            scheduler.step()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "milestones_in_steps_factors",
    family="factorisation",
    causes="schedule-too-fast",
    symptoms="plateau slow-convergence loss-not-decreasing",
)
def milestones_in_steps_factors(watch: Watch, seed: int, mended: bool) -> float:
    """Milestones 6, 8 and 9 of ten epochs; the scheduler counts batches."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.ratings()
    model = parts.Factors()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    per_epoch = 52
    scheduler = MultiStepLR(optimizer, [6, 8, 9], gamma=0.2)
    for step, (pairs, rating) in enumerate(parts.batches(x, y, 128, 10 * per_epoch), start=1):
        optimizer.zero_grad()
        pred = model(pairs)
        loss = (pred - rating).square().mean()
        w.observe(loss=loss, outputs=pred, targets=rating, inputs=pairs)
        loss.backward()
        optimizer.step()
        if not mended or step % per_epoch == 0:
            scheduler.step()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


class Rows(nn.Module):
    """A post-norm transformer that reads a digit row by row."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.pos = nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True) for _ in range(depth))
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.inp(x.unflatten(1, (8, 8))) + self.pos).mean(1))


@faulty(
    "post_norm_without_warmup",
    family="digits-rows-transformer",
    causes="no-warmup",
    symptoms="slow-convergence",
)
def post_norm_without_warmup(watch: Watch, seed: int, mended: bool) -> float:
    """A post-norm transformer, Adam at full rate from the first step; after a warm-up the same rate is fine."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = Rows()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.015)
    criterion = nn.CrossEntropyLoss()
    w = watch(model, optimizer, loss=criterion)
    total, warm = 160, 60 if mended else 1
    ramp = LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / warm) * min(1.0, 1.05 - (s - warm) / (total - warm)))
    for xb, yb in parts.batches(x, y, 64, total):
        optimizer.zero_grad()
        criterion(model(xb), yb).backward()
        optimizer.step()
        ramp.step()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "deep_relu_without_warmup",
    family="digits-mlp",
    causes="no-warmup lr-too-high",
    symptoms="slow-convergence loss-spike loss-oscillating",
)
def deep_relu_without_warmup(watch: Watch, seed: int, mended: bool) -> float:
    """Six ReLU layers under Adam with a decay but no warm-up: the first steps at the full rate throw it out."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = parts.mlp(64, *[64] * 6, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    w = watch(model, optimizer)
    warm = 60 if mended else 0
    for step, (xb, yb) in enumerate(parts.batches(x, y, 64, 180)):
        factor = (step + 1) / warm if step < warm else 1.0 - 0.95 * (step - warm) / (180 - warm)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        optimizer.zero_grad()
        logits = model(xb)
        loss = F.cross_entropy(logits, yb)
        w.observe(loss=loss, outputs=logits, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv)
