"""What is wrong with the rows: their scale, their order, their labels, single batches."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 housing table straight from the file",
    family="housing",
    causes="input-unscaled",
    symptoms="loss-oscillating slow-convergence plateau loss-spike exploding-gradient",
)
def raw_housing(watch: Watch, seed: int, mended: bool) -> float:
    """Years, square metres and metres to the station go in as they are; only the price is standardised."""
    torch.manual_seed(seed)
    d, s = parts.housing(), parts.scaled_housing()
    x, xv = (s.x, s.xv) if mended else (d.x, d.xv)
    model = parts.mlp(6, 64, 32, 1)
    criterion = nn.HuberLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        model.train()
        for xb, yb in parts.loader(x, s.y[:, None]):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, s.yv[:, None]))
    w.close()
    return parts.score(model, criterion, xv, s.yv[:, None])


@faulty(
    "2 points of one city in degrees",
    family="clouds",
    causes="input-unscaled",
    symptoms="loss-not-decreasing plateau slow-convergence",
)
def degrees(watch: Watch, seed: int, mended: bool) -> float:
    """Latitude and longitude near (47.4, 8.5), spread by hundredths: far from centred, and hardly spread."""
    torch.manual_seed(seed)
    data = parts.clouds()
    city = torch.tensor([47.4, 8.5])
    x, xv = (data.x, data.xv) if mended else (city + 0.02 * data.x, city + 0.02 * data.xv)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point, self.out = parts.mlp(2, 48, 48), parts.mlp(48, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.point(x).relu().mean(1))

    model = Net()
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for xb, yb in parts.loader(x, data.y[:, None]):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, data.yv[:, None])


@faulty(
    "2 load in megawatts",
    family="demand",
    causes="target-unscaled",
    symptoms="slow-convergence loss-not-decreasing plateau",
)
def load_in_megawatts(watch: Watch, seed: int, mended: bool) -> float:
    """Inputs are standardised, the hour to forecast is left at some 40000 MW, with L1 and Adam at its usual rate."""
    torch.manual_seed(seed)
    data = parts.demand()
    mean, std = (0.0, 1.0) if mended else (40000.0, 6000.0)
    model = parts.Forecaster(24, nn.LSTM)
    criterion = nn.L1Loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y * std + mean):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv * std + mean))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv * std + mean) / std


@faulty("2 column that never changes is standardised", family="churn", causes="non-finite-input", symptoms="non-finite")
def constant_column(watch: Watch, seed: int, mended: bool) -> float:
    """A twenty-first column holds the year of the export: (x - mean) / std is 0 / 0."""
    torch.manual_seed(seed)
    data = parts.churn()

    def prepare(x: Tensor) -> Tensor:
        table = torch.cat([x, torch.full((len(x), 1), 2024.0)], 1)
        std = table.std(0)
        return (table - table.mean(0)) / (std.clamp(min=1e-6) if mended else std)

    x, xv = prepare(data.x), prepare(data.xv)
    model = parts.mlp(21, 64, 4)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(5):
        for xb, yb in parts.loader(x, data.y):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, data.yv))
    w.close()
    return parts.score(model, criterion, xv, data.yv)


@faulty(
    "2 label encoder fitted anew on the validation rows",
    family="beats",
    causes="train-val-mismatch",
    symptoms="silent overfitting",
)
def encoder_fitted_twice(watch: Watch, seed: int, mended: bool) -> float:
    """The held-out patients have no normal beats, so that early, wide and the fourth kind become 0, 1 and 2."""
    torch.manual_seed(seed)
    data = parts.beats()
    xv, yv = data.xv[data.yv > 0], data.yv[data.yv > 0]
    names = sorted(set(data.y.tolist() if mended else yv.tolist()))
    yv = torch.tensor([names.index(k) for k in yv.tolist()])
    model = parts.Beat()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(5):
        model.train()
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(xv), yv).item())
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "2 houses in order of their price",
    family="housing",
    causes="data-order",
    symptoms="loss-oscillating loss-spike loss-not-decreasing slow-convergence",
)
def sorted_by_price(watch: Watch, seed: int, mended: bool) -> float:
    """The export is sorted by price, and the loader does not shuffle."""
    torch.manual_seed(seed)
    data = parts.scaled_housing()
    order = data.y.argsort()
    model = parts.mlp(6, 48, 48, 1)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    train = parts.loader(data.x[order], data.y[order][:, None], 32, shuffle=mended)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for x, y in train:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv[:, None]))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv[:, None])


@faulty(
    "2 two loaders that shuffle apart",
    family="shapes",
    causes="data-unlearnable",
    symptoms="loss-not-decreasing plateau",
)
def loaders_apart(watch: Watch, seed: int, mended: bool) -> float:
    """`zip(images, labels)` over two loaders with shuffle=True: each draws an order of its own."""
    torch.manual_seed(seed)
    data = parts.shapes()
    model = parts.ShapeNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = list(range(len(data.x)))
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        random.Random(seed).shuffle(rows)
        images = DataLoader(data.x[rows], batch_size=32, shuffle=not mended, drop_last=True)
        labels = DataLoader(data.y[rows], batch_size=32, shuffle=not mended, drop_last=True)
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 a strip of recordings with the lead off",
    family="beats",
    causes="bad-batch",
    symptoms="loss-spike exploding-gradient loss-oscillating diverging",
)
def lead_off(watch: Watch, seed: int, mended: bool) -> float:
    """Forty recordings with the electrode off rail at twenty times the amplitude; loader goes patient by patient."""
    torch.manual_seed(seed)
    data = parts.beats()
    x = data.x.clone()
    at = 700 + torch.arange(40)
    x[at] = x[at] * 20
    y = data.y
    if mended:
        keep = x.abs().amax((1, 2)) < 12
        x, y = x[keep], y[keep]
    model = parts.Beat(norm=False)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8):
        for patient in torch.randperm(len(x) // 40):
            rows = slice(int(patient) * 40, int(patient) * 40 + 40)
            optimizer.zero_grad()
            criterion(model(x[rows]), y[rows]).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)
