"""Small tables: much noise, few rows, offsets, own units."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of, variance
from benchmarks.diagnose.healthy.outside2.rows import generated, homes, parted, table
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("2-diabetes-half-explained", family="2-sklearn-tables", part="outside2")
def diabetes(watch: Watch, seed: int) -> Outcome:
    """Half of the variance stays: the loss stops early, and validation with it."""
    torch.manual_seed(seed)
    x, y, x2, y2 = table("diabetes", seed)
    model, criterion = mlp(10, 12, 1, act=nn.Tanh), nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.1)
    first = loss_of(model, criterion, x2, y2)
    with watch(model, optimizer, loss=criterion) as w:
        for _ in range(12):
            for inputs, targets in batches(x, y, size=16):
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                optimizer.step()
            w.validated(loss=loss_of(model, criterion, x2, y2))
    return Outcome(first, loss_of(model, criterion, x2, y2), variance(y2))


@healthy("2-wine-by-lbfgs", family="2-sklearn-tables", part="outside2")
def wine(watch: Watch, seed: int) -> Outcome:
    """All rows at once, a line search that calls the closure many times, smoothed labels that leave a floor."""
    torch.manual_seed(seed)
    x, y, x2, y2 = table("wine", seed)
    model, criterion = nn.Linear(13, 3), nn.CrossEntropyLoss(label_smoothing=0.2)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=3, line_search_fn="strong_wolfe")
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    for _ in range(60):
        optimizer.step(closure)
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


@healthy("2-cancer-two-rows-a-batch", family="2-sklearn-tables", part="outside2")
def cancer(watch: Watch, seed: int) -> Outcome:
    """Two rows a step, a tenth of the labels wrong: each loss says little."""
    torch.manual_seed(seed)
    x, y, x2, y2 = table("breast_cancer", seed)
    wrong = torch.rand(len(y)) < 0.1
    y = torch.where(wrong, 1 - y, y).float()[:, None]
    wrong2 = torch.rand(len(y2)) < 0.1
    y2 = torch.where(wrong2, 1 - y2, y2).float()[:, None]
    model, criterion = nn.Linear(30, 1), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=1e-2)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=2, epochs=3):
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), binary_entropy(y2))


@healthy("2-homes-in-own-units", family="2-prices", part="outside2")
def own_units(watch: Watch, seed: int) -> Outcome:
    """People by the thousand beside rooms by the five, behind a batch norm; prices near 2, and the head's bias."""
    torch.manual_seed(seed)
    x, y, x2, y2 = parted(*homes(4000), seed)
    model = nn.Sequential(nn.BatchNorm1d(6), mlp(6, 32, 32, 1))
    nn.init.constant_(model[1][-1].bias, float(y.mean()))
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with torch.no_grad():
        first = criterion(model(x2), y2).item()  # by the batch's own mean: none runs yet
    w = watch(model, optimizer, loss=criterion, steps=43 * 7)
    for _ in range(7):
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        with w.validation():  # in evaluation mode, but with autograd on
            model.eval()
            criterion(model(x2), y2)
            model.train()
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), variance(y2))


@healthy("2-kelvin-behind-a-set-bias", family="2-prices", part="outside2")
def kelvin(watch: Watch, seed: int) -> Outcome:
    """Temperatures near 290 that vary by one or two: the output layer's bias starts at their mean."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("friedman1", seed, n_samples=3000, n_features=8, noise=2.0)
    y, y2 = 290 + 2 * y, 290 + 2 * y2
    model, criterion = mlp(8, 48, 48, 1, act=nn.SiLU), nn.MSELoss()
    with torch.no_grad():
        model[-1].bias.copy_(y.mean(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32, epochs=6):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), variance(y2))


@healthy("2-one-of-twenty-learnt", family="2-classification", part="outside2")
def one_of_twenty(watch: Watch, seed: int) -> Outcome:
    """One row in twenty is positive, and most of these are found; three per cent of labels flipped."""
    torch.manual_seed(seed)
    options = {"n_samples": 6000, "n_features": 12, "n_informative": 6, "weights": [0.95], "class_sep": 1.6}
    x, y, x2, y2 = generated("classification", seed, flip_y=0.03, n_clusters_per_class=1, **options)
    y, y2 = y.float(), y2.float()
    model = nn.Sequential(mlp(12, 24, 1, norm=nn.BatchNorm1d), nn.Flatten(0))
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for inputs, targets in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():  # a metric on training rows in training mode
            float(((model(x[:512]) > 0) == (y[:512] > 0)).float().mean())
        w.validated(loss=loss_of(model, criterion, x2, y2))
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), binary_entropy(y2))


@healthy("2-many-classes-few-rows", family="2-classification", part="outside2")
def many_classes(watch: Watch, seed: int) -> Outcome:
    """Twenty classes that overlap, plain SGD on a linear layer with a large batch."""
    torch.manual_seed(seed)
    options = {"n_samples": 6000, "n_features": 16, "n_informative": 12, "n_classes": 20, "class_sep": 1.0}
    x, y, x2, y2 = generated("classification", seed, n_clusters_per_class=1, flip_y=0.1, **options)
    model, criterion = nn.Linear(16, 20), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=256, epochs=15):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))
