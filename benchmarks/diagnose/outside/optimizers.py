"""The wrong rule for the job, or gradients clipped to nearly nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "clip_tight_digits_sgd",
    family="digits-mlp",
    causes="clip-too-tight optimizer-unsuited",
    symptoms="slow-convergence",
)
def clip_tight_digits_sgd(watch: Watch, seed: int, mended: bool) -> float:
    """clip_grad_norm_ with 0.001 where 1.0 was meant."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = parts.mlp(64, 64, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8):
        for xb, yb in parts.loader(x, y, 64):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=2.0 if mended else 0.001)
            optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "clip_tight_forecaster_fused",
    family="waves-lstm",
    causes="clip-too-tight lr-too-low optimizer-unsuited",
    symptoms="slow-convergence loss-not-decreasing",
)
def clip_tight_forecaster_fused(watch: Watch, seed: int, mended: bool) -> float:
    """The optimizer clips to 0.002, since `LSTMs need clipping`; SGD then creeps."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.waves()
    model = parts.Forecaster(24)
    mse = nn.MSELoss()
    optimizer = sf.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, clip_norm=2.0 if mended else 0.002)
    w = watch(model, optimizer, loss=mse)
    for _epoch in range(10):
        for xb, yb in parts.batches(x, y, 32, 21):
            optimizer.zero_grad()
            loss = mse(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, mse, xv, yv))
    w.close()
    return parts.score(model, mse, xv, yv)


@faulty(
    "clip_tight_accumulated_gru",
    family="char-gru",
    causes="clip-too-tight lr-too-low optimizer-unsuited",
    symptoms="slow-convergence",
)
def clip_tight_accumulated_gru(watch: Watch, seed: int, mended: bool) -> float:
    """Two micro-batches a step, then a clip at 0.01: the same limit in every step, whatever the gradient."""
    torch.manual_seed(seed)
    (x, y, xv, yv), vocabulary = parts.text()
    model = parts.CharGRU(vocabulary)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    criterion = parts.Tokens()
    w = watch(model, optimizer, loss=criterion)
    optimizer.zero_grad()
    for step, (inputs, targets) in enumerate(parts.batches(x, y, 16, 240), start=1):
        (criterion(model(inputs), targets) / 2).backward()
        if step % 2 == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0 if mended else 0.01)
            optimizer.step()
            optimizer.zero_grad()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "sgd_on_factors",
    family="factorisation",
    causes="optimizer-unsuited lr-too-low",
    symptoms="slow-convergence loss-not-decreasing plateau",
)
def sgd_on_factors(watch: Watch, seed: int, mended: bool) -> float:
    """Plain SGD on embeddings of which each batch touches a few rows: most factors hardly move."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.ratings()
    model = parts.Factors()
    if mended:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mse = nn.MSELoss()
    w = watch(model, optimizer, loss=mse)
    for pairs, rating in parts.batches(x, y, 128, 500):
        optimizer.zero_grad()
        loss = mse(model(pairs), rating)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, mse, xv, yv)


@faulty(
    "sgd_on_transformer",
    family="char-transformer",
    causes="optimizer-unsuited lr-too-low",
    symptoms="slow-convergence plateau",
)
def sgd_on_transformer(watch: Watch, seed: int, mended: bool) -> float:
    """A transformer trained with plain SGD at 0.05 and no momentum: Adam goes much faster at any rate."""
    torch.manual_seed(seed)
    (x, y, xv, yv), vocabulary = parts.text()
    model = parts.CharFormer(vocabulary, depth=2)
    if mended:
        opt: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    else:
        opt = torch.optim.SGD(model.parameters(), lr=0.05)
    criterion = parts.Tokens()
    w = watch(model, opt, loss=criterion)
    for step, (xb, yb) in enumerate(parts.batches(x, y, 32, 120)):
        opt.zero_grad()
        criterion(model(xb), yb).backward()
        opt.step()
        if step % 40 == 39:
            w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "adagrad_spirals",
    family="spirals",
    causes="optimizer-unsuited lr-too-low",
    symptoms="slow-convergence",
)
def adagrad_spirals(watch: Watch, seed: int, mended: bool) -> float:
    """Adagrad at its default rate, whose steps shrink for ever, where the way to go is long."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.spirals()
    model = parts.mlp(2, 48, 48, 2, act=nn.Tanh)
    if mended:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    else:
        optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for xb, yb in parts.batches(x, y, 60, 400):
        optimizer.zero_grad()
        logits = model(xb)
        loss = F.cross_entropy(logits, yb)
        w.observe(loss=loss, outputs=logits, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, nn.CrossEntropyLoss(), xv, yv)


@faulty(
    "no_momentum_ill_conditioned",
    family="linear-correlated",
    causes="optimizer-unsuited",
    symptoms="slow-convergence",
)
def no_momentum_ill_conditioned(watch: Watch, seed: int, mended: bool) -> float:
    """Strongly correlated features: plain SGD at the largest stable rate creeps along the valley, momentum does not."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(4)
    common = torch.randn(1000, 1, generator=g)
    x = 0.95 * common + 0.31 * torch.randn(1000, 16, generator=g)
    y = x @ torch.linspace(-2, 2, 16).reshape(-1, 1)
    y = y / y.std() + 0.1 * torch.randn(1000, 1, generator=g)
    x, y, xv, yv = parts.split(x, y)
    model = nn.Linear(16, 1)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9 if mended else 0.0)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(20):
        for xb, yb in parts.batches(x, y, 75, 10):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)
