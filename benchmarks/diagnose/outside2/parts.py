"""Data and models that the programs of the second outside part share. All data are made here or come with sklearn."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.diagnose.outside2.models import (  # noqa: F401
    Beat,
    ClickNet,
    Forecaster,
    ShapeNet,
    Sorter,
    Writer,
    by_token,
    mlp,
    poisson,
)


class Data(NamedTuple):
    """Rows to train on, and as sound ones to judge by."""

    x: Tensor
    y: Tensor
    xv: Tensor
    yv: Tensor


def cut(x: Tensor, y: Tensor, train: int) -> Data:
    return Data(x[:train], y[:train], x[train:], y[train:])


def standard(x: Tensor, by: Tensor | None = None) -> Tensor:
    """Centred and scaled by the columns of `by`."""
    by = x if by is None else by
    return (x - by.mean(0)) / by.std(0)


def loader(x: Tensor, y: Tensor, size: int = 32, shuffle: bool = True) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=shuffle, drop_last=True)


@torch.no_grad()
def score(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """The loss in evaluation mode; the mode is put back. Never more than 1e6, so that ruin can be compared."""
    was = model.training
    model.eval()
    loss = criterion(model(x).float(), y).item()
    model.train(was)
    return min(loss, 1e6) if math.isfinite(loss) else 1e6


def _float(x: np.ndarray) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32)


@functools.cache
def moons() -> Data:
    x, y = datasets.make_moons(3000, noise=0.2, random_state=1)
    return cut(standard(_float(x)), torch.as_tensor(y), 2048)


@functools.cache
def circles() -> Data:
    x, y = datasets.make_circles(2600, noise=0.1, factor=0.5, random_state=2)
    return cut(standard(_float(x)), torch.as_tensor(y), 2048)


@functools.cache
def churn() -> Data:
    """Four kinds of customer, twenty columns of which twelve say something."""
    x, y = datasets.make_classification(
        3000, 20, n_informative=12, n_classes=4, class_sep=1.4, flip_y=0.02, random_state=3
    )
    return cut(standard(_float(x)), torch.as_tensor(y), 2000)


@functools.cache
def housing() -> Data:
    """Area in square metres, year, rooms, metres to the station, storey, rate of the tax; price in thousands."""
    r = np.random.RandomState(4)
    n = 2600
    area, year, rooms = r.gamma(9, 12, n), r.uniform(1900, 2020, n), r.randint(1, 8, n)
    station, storey, tax = r.gamma(2, 400, n), r.randint(0, 12, n), r.uniform(0.8, 1.3, n)
    price = area * (4 + 0.03 * (year - 1900)) * np.exp(-station / 2500) + 18 * rooms + 6 * storey - 90 * (tax - 1)
    price = price * np.exp(r.normal(0, 0.05, n))
    return cut(_float(np.stack([area, year, rooms, station, storey, tax], 1)), _float(price), 2048)


def scaled_housing() -> Data:
    d = housing()
    return Data(standard(d.x), standard(d.y), standard(d.xv, d.x), (d.yv - d.y.mean()) / d.y.std())


@functools.cache
def beats() -> Data:
    """Heart beats of four kinds, [N, 1, 64]: normal, early, wide, without a P wave; with wandering baseline."""
    r = np.random.RandomState(5)
    n, t = 2200, np.arange(64)
    kind, at = r.randint(0, 4, n), 30 + r.randint(-4, 5, n)
    rows = []
    for k, c in zip(kind, at, strict=True):
        width = 5.0 if k == 2 else 2.2
        wave = 2.2 * np.exp(-0.5 * ((t - c) / width) ** 2) - 0.7 * np.exp(-0.5 * ((t - c - width - 3) / 2) ** 2)
        wave += 0.7 * np.exp(-0.5 * ((t - c - 20) / 4) ** 2)
        if k != 3:
            wave += 0.6 * np.exp(-0.5 * ((t - c + (7 if k == 1 else 14)) / 2.5) ** 2)
        rows.append(wave + 0.3 * np.sin(t / 20 + r.uniform(0, 6)) + r.normal(0, 0.15, 64))
    x = _float(np.stack(rows))[:, None]
    return cut((x - x.mean()) / x.std(), torch.as_tensor(kind), 1600)


@functools.cache
def demand() -> Data:
    """Windows of 24 hours of electric load, standardised, [N, 24, 1], and the hour that follows, [N, 1]."""
    r = np.random.RandomState(6)
    hour = np.arange(2700)
    day = hour * 2 * np.pi / 24
    load = np.sin(day) + 0.5 * np.sin(2 * day + 1) + 0.6 * np.sin(day / 7)
    drift = np.zeros(2700)
    for i in range(1, 2700):
        drift[i] = 0.9 * drift[i - 1] + r.normal(0, 0.12)
    series = load * np.exp(0.3 * drift) + drift
    series = (series - series.mean()) / series.std()
    rows = np.lib.stride_tricks.sliding_window_view(series, 25)
    return cut(_float(rows[:, :24].copy())[..., None], _float(rows[:, 24:].copy()), 2048)


@functools.cache
def shapes() -> Data:
    """Discs, squares, crosses and rings in noise, [N, 1, 16, 16]."""
    r = np.random.RandomState(7)
    n, (i, j) = 2600, np.mgrid[:16, :16]
    kind = r.randint(0, 4, n)
    images = r.normal(0, 0.25, (n, 16, 16))
    for image, k in zip(images, kind, strict=True):
        a, b, s = r.uniform(5, 10), r.uniform(5, 10), r.uniform(3, 4.6)
        far = np.hypot(i - a, j - b)
        disc, box = far < s, np.maximum(abs(i - a), abs(j - b)) < s * 0.9
        cross = box & ((abs(i - a) < 1.2) | (abs(j - b) < 1.2))
        image += [disc, box, cross, disc & (far > s - 1.6)][k]
    x = _float(images)[:, None]
    return cut((x - x.mean()) / x.std(), torch.as_tensor(kind), 2000)


@functools.cache
def genres() -> Data:
    """Counts of twenty words, scaled, and six genres that go together."""
    x, y = datasets.make_multilabel_classification(2600, 20, n_classes=6, n_labels=2, random_state=8)
    return cut(standard(_float(x)), _float(y), 2048)


@functools.cache
def prose() -> tuple[Tensor, Tensor, int]:
    """The descriptions of sklearn's data sets as characters: to train on, held out, and how many there are."""
    folder = resources.files("sklearn.datasets") / "descr"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    text = "".join(file.read_text(encoding="utf-8").lower() for file in files)
    text = "".join(c if (c.isascii() and c.isalnum()) or c in " .,-\n:" else " " for c in text)
    text = " ".join(text.split())
    names = sorted(set(text))
    ids = torch.tensor([names.index(c) for c in text])
    held = torch.zeros(len(ids), dtype=torch.bool)
    blocks = torch.arange(len(ids)) // 400 % 6 == 5
    held |= blocks
    return ids[~held], ids[held], len(names)


def windows(ids: Tensor, length: int, size: int) -> tuple[Tensor, Tensor]:
    """A batch of pieces and the same a character on."""
    at = torch.randint(0, len(ids) - length - 1, (size, 1)) + torch.arange(length + 1)
    return ids[at][:, :-1], ids[at][:, 1:]


@functools.cache
def graphs() -> tuple[Tensor, Tensor, Tensor, int]:
    """Adjacency [N, 12, 12], features [N, 12, 4], a property of the graph [N], and the rows to train on."""
    g = torch.Generator().manual_seed(9)
    n = 1500
    place = torch.rand(n, 12, 2, generator=g)
    far = (place[:, :, None] - place[:, None]).norm(dim=-1)
    a = (far < torch.rand(n, 1, 1, generator=g) * 0.25 + 0.3).float()
    x = torch.randn(n, 12, 4, generator=g)
    near = (a @ x) / a.sum(-1, keepdim=True)
    y = (torch.relu(near[..., 0]) + near[..., 1] * x[..., 2]).mean(1) + 0.4 * near[..., 3].tanh().mean(1)
    return a, x, standard(y), 1200


@functools.cache
def clouds(points: int = 30) -> Data:
    """Sets of points in the plane, [N, points, 2], and how they are spread (a number)."""
    g = torch.Generator().manual_seed(10)
    n = 2000
    scale = 0.5 + torch.rand(n, 1, 2, generator=g)
    x = torch.randn(n, points, 2, generator=g) * scale
    y = (x[..., 0] * x[..., 1]).abs().mean(1) + x[..., 0].square().mean(1) - 0.5 * x[..., 1].abs().mean(1)
    return cut(x, standard(y), 1500)


@functools.cache
def clicks() -> Data:
    """City, device, hour and advert as indices; clicked or not."""
    g = torch.Generator().manual_seed(11)
    sizes = (40, 8, 24, 60)
    n = 5000
    x = torch.stack([torch.randint(0, s, (n,), generator=g) for s in sizes], 1)
    tables = [torch.randn(s, 3, generator=g) for s in sizes]
    a, b, c, d = (t[x[:, k]] for k, t in enumerate(tables))
    logit = 0.5 * (a * d).sum(1) + a[:, 0] + b[:, 0] + c[:, 0] + d[:, 0] + (b * c).sum(1)
    return cut(x, (torch.rand(n, generator=g) < logit.mul(4).sigmoid()).float(), 4000)


def sorting(size: int, length: int = 8, kinds: int = 12) -> tuple[Tensor, Tensor]:
    """Numbers in any order, and in the right one."""
    x = torch.randint(0, kinds, (size, length))
    return x, x.sort(1).values


@functools.cache
def counts() -> Data:
    """Visits in a shop in an hour: small whole numbers."""
    r = np.random.RandomState(12)
    x = r.normal(0, 1, (2600, 6))
    rate = np.exp(0.8 + 0.5 * x[:, 0] - 0.4 * x[:, 1] * (x[:, 2] > 0) + 0.4 * np.sin(2 * x[:, 3]))
    return cut(_float(x), _float(r.poisson(rate))[:, None], 2048)


@functools.cache
def spectra() -> Data:
    """Three peaks whose places and heights hang on four numbers, over 48 channels; target is without noise."""
    g = torch.Generator().manual_seed(13)
    z, t = torch.rand(2400, 4, generator=g), torch.linspace(0, 1, 48)
    y = torch.zeros(2400, 48)
    for k in range(3):
        at, high = 0.15 + 0.3 * k + 0.15 * z[:, k : k + 1], 0.5 + z[:, 3:] * (k + 1) / 3
        y += high * torch.exp(-0.5 * ((t - at) / 0.05) ** 2)
    x = y + 0.1 * torch.randn(2400, 48, generator=g)
    mean, std = y.mean(0), y.std()
    return cut((x - mean) / std, (y - mean) / std, 1800)


@functools.cache
def tagged() -> Data:
    """Sentences of 16 words out of 50, [N, 16]; three words in a hundred are names, and of two kinds."""
    g = torch.Generator().manual_seed(14)
    x = torch.randint(0, 50, (2400, 16), generator=g)
    hint, word = x[:, :-1], x[:, 1:]
    y = torch.zeros_like(x)
    y[:, 1:][(hint < 10) & (word % 12 == 1)] = 1
    y[:, 1:][(hint >= 42) & (word % 12 == 5)] = 2
    noise = torch.rand(y.shape, generator=g)
    y = torch.where(noise < 0.012, 1, torch.where(noise < 0.024, 2, y))
    return cut(x, y, 2000)
