"""Too long or too short a training, too large or too small a batch."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "batch_of_one_diabetes",
    family="diabetes",
    causes="batch-too-small lr-too-high",
    symptoms="loss-oscillating plateau",
)
def batch_of_one_diabetes(watch: Watch, seed: int, mended: bool) -> float:
    """batch_size=1 left from debugging: the noise of single rows shakes a linear model off its optimum."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.table("diabetes")
    model = nn.Linear(10, 1)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.035)
    w = watch(model, optimizer, loss=criterion)
    for xb, yb in parts.batches(x, y, 32 if mended else 1, 600):
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv) - 0.4  # what no linear model can know


@faulty(
    "batch_of_two_cnn",
    family="digits-cnn",
    causes="batch-too-small lr-too-high",
    symptoms="loss-oscillating plateau loss-spike loss-not-decreasing",
)
def batch_of_two_cnn(watch: Watch, seed: int, mended: bool) -> float:
    """Batches of two `because of memory`, at the rate and momentum of batches of 64."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    model = parts.SmallCNN(8)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    size = 64 if mended else 2
    step = 0
    while step < 250:
        for xb, yb in parts.batches(x, y, size, 50):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
            step += 1
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "full_batch_digits",
    family="digits-mlp",
    causes="batch-too-large lr-too-low optimizer-unsuited undertrained",
    symptoms="slow-convergence",
)
def full_batch_digits(watch: Watch, seed: int, mended: bool) -> float:
    """One batch an epoch: sixty epochs are sixty steps."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = parts.mlp(64, 48, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = watch(model, optimizer, loss=criterion)
    for epoch in range(60):
        for xb, yb in parts.loader(x, y, 64 if mended else len(x)):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        if epoch % 10 == 9:
            w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "half_the_table_a_batch",
    family="factorisation",
    causes="batch-too-large lr-too-low undertrained",
    symptoms="slow-convergence",
)
def half_the_table_a_batch(watch: Watch, seed: int, mended: bool) -> float:
    """Batches of a third of all ratings, twenty epochs: too few steps for what Adam does in each."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.ratings()
    model = parts.Factors()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    size = 128 if mended else 2250
    w = watch(model, optimizer)
    for _epoch in range(20):
        for pairs, rating in parts.batches(x, y, size, len(x) // size):
            optimizer.zero_grad()
            pred = model(pairs)
            loss = F.mse_loss(pred, rating)
            w.observe(loss=loss, outputs=pred, targets=rating, inputs=pairs)
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


@faulty("undertrained_spirals", family="spirals", causes="undertrained", symptoms="slow-convergence silent")
def undertrained_spirals(watch: Watch, seed: int, mended: bool) -> float:
    """Stopped after 60 steps of SGD, when the arms have just begun to part."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.spirals()
    model = parts.mlp(2, 64, 64, 2, act=nn.Tanh)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for xb, yb in parts.batches(x, y, 60, 900 if mended else 60):
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "undertrained_factors",
    family="factorisation",
    causes="undertrained lr-too-low",
    symptoms="slow-convergence silent",
)
def undertrained_factors(watch: Watch, seed: int, mended: bool) -> float:
    """Two epochs over ratings, for want of patience."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.ratings()
    model = parts.Factors()
    mse = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=mse)
    for _epoch in range(12 if mended else 2):
        for pairs, rating in parts.batches(x, y, 128, 52):
            optimizer.zero_grad()
            loss = mse(model(pairs), rating)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, mse, xv, yv))
    w.close()
    return parts.score(model, mse, xv, yv)


@faulty("overtrained_lines", family="line-bags", causes="overtrained", symptoms="overfitting")
def overtrained_lines(watch: Watch, seed: int, mended: bool) -> float:
    """Twenty-eight epochs on a few hundred lines of code; validation had turned after a few."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.lines()
    model = parts.LineBag()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    best, kept = math.inf, {}
    for _epoch in range(28):
        model.train()
        for words, labels in parts.batches(x, y, 34, 21):
            optimizer.zero_grad()
            loss = criterion(model(words), labels)
            loss.backward()
            optimizer.step()
        held = parts.score(model, criterion, xv, yv)
        w.validated(loss=held)
        if mended and held > best:
            model.load_state_dict(kept)
            break
        best, kept = held, copy.deepcopy(model.state_dict())
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty("overtrained_cancer", family="breast-cancer", causes="overtrained", symptoms="overfitting")
def overtrained_cancer(watch: Watch, seed: int, mended: bool) -> float:
    """A wide network on sixty patients, on and on after the loss of training has gone to zero."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.table("breast_cancer")
    x, y = x[:60], y[:60]
    model = parts.mlp(30, 128, 128, 1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    best, kept = math.inf, {}
    for _epoch in range(100):
        for xb, yb in parts.loader(x, y, 20):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            held = criterion(model(xv), yv).item()
        model.train()
        w.validated(loss=held)
        if mended and held > 1.1 * best:
            model.load_state_dict(kept)
            break
        if held < best:
            best, kept = held, copy.deepcopy(model.state_dict())
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty("overtrained_diabetes", family="diabetes", causes="overtrained", symptoms="overfitting")
def overtrained_diabetes(watch: Watch, seed: int, mended: bool) -> float:
    """A network of 128 on 150 patients, trained until it knows the noise by heart."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.table("diabetes")
    x, y = x[:150], y[:150]
    model = parts.mlp(10, 128, 128, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    mse = nn.MSELoss()
    w = watch(model, optimizer)
    best, kept = math.inf, {}
    for epoch in range(120):
        for xb, yb in parts.batches(x, y, 30, 5):
            optimizer.zero_grad()
            out = model(xb)
            loss = mse(out, yb)
            w.observe(loss=loss, outputs=out, targets=yb, inputs=xb)
            loss.backward()
            optimizer.step()
        if epoch % 2:
            held = parts.score(model, mse, xv, yv)
            w.validated(loss=held)
            if mended and held > 1.05 * best:
                model.load_state_dict(kept)
                break
            if held < best:
                best, kept = held, copy.deepcopy(model.state_dict())
    w.close()
    return parts.score(model, mse, xv, yv)
