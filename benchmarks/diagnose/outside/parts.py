"""Data, models and measures that the programs of wiring, data and head share."""

from __future__ import annotations

import argparse
import inspect
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn


class Split(NamedTuple):
    """Rows to train on and rows to measure on."""

    x: Tensor
    y: Tensor
    vx: Tensor
    vy: Tensor


def _split(x: np.ndarray, y: np.ndarray, stratify: bool = True) -> Split:
    x, vx, y, vy = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y if stratify else None)
    return Split(*(torch.as_tensor(np.asarray(one)) for one in (x, y, vx, vy)))


def _clone(split: Split) -> Split:
    return Split(*(one.clone() for one in split))


def standard(split: Split) -> Split:
    """Columns scaled by the training rows."""
    mean, std = split.x.mean(0), split.x.std(0).clamp(min=1e-6)
    return split._replace(x=(split.x - mean) / std, vx=(split.vx - mean) / std)


@cache
def _tables() -> dict[str, Split]:
    found = {}
    for name in ("digits", "breast_cancer", "wine", "iris", "diabetes"):
        bunch = getattr(datasets, f"load_{name}")()
        x = bunch.data.astype(np.float32)
        if name == "diabetes":
            found[name] = _split(x, bunch.target.astype(np.float32), stratify=False)
        else:
            found[name] = _split(x, bunch.target.astype(np.int64))
    return found


def raw(name: str) -> Split:
    """One of scikit-learn's tables as it comes, labels as integers."""
    return _clone(_tables()[name])


def digits() -> Split:
    """Digits as centred images of one channel."""
    split = raw("digits")
    return split._replace(x=(split.x.view(-1, 1, 8, 8) - 4.9) / 6.0, vx=(split.vx.view(-1, 1, 8, 8) - 4.9) / 6.0)


def flat_digits() -> Split:
    """Digits as centred vectors."""
    split = digits()
    return split._replace(x=split.x.flatten(1), vx=split.vx.flatten(1))


def cancer() -> Split:
    """Breast cancer, scaled, with a column of zeros and ones as targets."""
    split = standard(raw("breast_cancer"))
    return split._replace(y=split.y.float()[:, None], vy=split.vy.float()[:, None])


def diabetes() -> Split:
    """Diabetes, inputs and targets scaled; a column of targets."""
    split = standard(raw("diabetes"))
    mean, std = split.y.mean(), split.y.std()
    return split._replace(y=((split.y - mean) / std)[:, None], vy=((split.vy - mean) / std)[:, None])


def friedman(rows: int = 2400) -> Split:
    """Friedman's first function with noise, inputs and targets scaled."""
    x, y = datasets.make_friedman1(rows, noise=2.0, random_state=0)
    split = standard(_split(x.astype(np.float32), y.astype(np.float32), stratify=False))
    mean, std = split.y.mean(), split.y.std()
    return split._replace(y=((split.y - mean) / std)[:, None], vy=((split.vy - mean) / std)[:, None])


def halves(x: Tensor, y: Tensor, share: float = 0.75) -> Split:
    """The first share to train on."""
    cut = int(len(x) * share)
    return Split(x[:cut], y[:cut], x[cut:], y[cut:])


def wave_classes(rows: int = 1600, length: int = 24) -> Split:
    """Noisy waves [N, T, 1] of three frequencies; one label in ten is wrong."""
    kind = torch.randint(3, (rows,))
    time = torch.linspace(0, 1, length)
    phase = torch.rand(rows, 1) * 6.28
    waves = torch.sin(6.28 * (1.0 + 2.0 * kind[:, None]) * time + phase) * 1.3 + 0.3 * torch.randn(rows, length)
    wrong = torch.rand(rows) < 0.1
    return halves(waves[..., None], torch.where(wrong, torch.randint(3, (rows,)), kind))


def wave_next(rows: int = 1600, length: int = 16) -> Split:
    """Windows [N, T, 1] of noisy waves and the value [N, 1] that follows; unit scale."""
    speed, phase = 0.3 + 0.5 * torch.rand(rows, 1), torch.rand(rows, 1) * 6.28
    waves = 1.3 * torch.sin(speed * torch.arange(length + 1) + phase) + 0.35 * torch.randn(rows, length + 1)
    return halves(waves[:, :-1, None], waves[:, -1:])


@cache
def _source() -> str:
    return inspect.getsource(argparse)[:60_000]


def python_text() -> tuple[Tensor, Tensor, int]:
    """A module of Python's own library as character numbers, its tail for validation, and the alphabet's size."""
    text = _source()
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(one) for one in text])
    return ids[:54_000], ids[54_000:], len(letters)


def chunks(ids: Tensor, rows: int, length: int = 32) -> tuple[Tensor, Tensor]:
    """Random windows and the characters that follow."""
    starts = torch.randint(len(ids) - length - 1, (rows, 1)) + torch.arange(length)
    return ids[starts], ids[starts + 1]


def ratings(users: int = 90, items: int = 90) -> Split:
    """Pairs (user, item) and their noisy rating, of rank three and unit scale."""
    table = torch.randn(users, 3) @ torch.randn(items, 3).T / 3**0.5 + 0.4 * torch.randn(users, items)
    pairs = torch.cartesian_prod(torch.arange(users), torch.arange(items))[torch.randperm(users * items)]
    return halves(pairs, table[pairs[:, 0], pairs[:, 1]])


def tags(rows: int = 2400) -> Split:
    """Twenty features, six labels that may all be on at once, with noise."""
    x = torch.randn(rows, 20)
    score = x @ torch.randn(20, 6) / 20**0.5 + 0.3 * torch.randn(rows, 6)
    return halves(x, (score > 0.3).float())


def discs(rows: int = 600, radius: float = 4.0, noise: float = 0.7) -> Split:
    """Noisy images [N, 1, 16, 16] with a bright disc, and its mask [N, 1, 16, 16]."""
    centre = 3 + 10 * torch.rand(rows, 2, 1, 1)
    grid = torch.arange(16.0)
    mask = ((grid[:, None] - centre[:, 0]) ** 2 + (grid - centre[:, 1]) ** 2 < radius**2).float()[:, None]
    image = mask + noise * torch.randn(rows, 1, 16, 16)
    return halves((image - image.mean()) / image.std(), mask)


def token_counts(rows: int = 2400, length: int = 12) -> Split:
    """Sequences of eight tokens; the label says whether there are more ones than twos. One in twenty is wrong."""
    x = torch.randint(8, (rows, length))
    more = (x == 1).sum(1) > (x == 2).sum(1)
    return halves(x, (more ^ (torch.rand(rows) < 0.05)).long())


def fraud(rows: int = 4000) -> Split:
    """Twelve features; three rows in a hundred are positive, and not easily told from the rest."""
    y = (torch.rand(rows) < 0.03).float()
    x = torch.randn(rows, 12)
    x[:, :4] += 0.75 * y[:, None]
    return halves(x, y[:, None])


def pairs(x: Tensor, y: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two images each, and whether they are of one class; half of them are."""
    first = torch.randint(len(x), (rows,))
    second = torch.randint(len(x), (rows,))
    for row in range(0, rows, 2):
        alike = (y == y[first[row]]).nonzero().flatten()
        second[row] = alike[torch.randint(len(alike), (1,))]
    return x[first], x[second], (y[first] == y[second]).float()


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with an activation between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), act()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers[: -2 if dropout else -1])


class Cnn(nn.Module):
    """Two convolutions with batch norm, a dropout and a linear head for eight by eight images."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(24)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(24 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(self.drop(x.flatten(1)))


class WaveNet(nn.Module):
    """An LSTM or GRU that reads a wave and a linear head on its last state."""

    def __init__(self, outputs: int, hidden: int = 32, cell: type[nn.RNNBase] = nn.GRU) -> None:
        super().__init__()
        self.rnn = cell(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class CharModel(nn.Module):
    """A GRU over characters."""

    def __init__(self, letters: int, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, 32)
        self.gru = nn.GRU(32, hidden, batch_first=True)
        self.out = nn.Linear(hidden, letters)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.gru(self.embed(ids))[0])


class Factors(nn.Module):
    """Ratings as a product of user and item vectors."""

    def __init__(self, users: int = 90, items: int = 90, rank: int = 4) -> None:
        super().__init__()
        self.user = nn.Embedding(users, rank)
        self.item = nn.Embedding(items, rank)
        nn.init.normal_(self.user.weight, std=0.5)
        nn.init.normal_(self.item.weight, std=0.5)

    def forward(self, pair: Tensor) -> Tensor:
        return (self.user(pair[:, 0]) * self.item(pair[:, 1])).sum(-1)


class TokenNet(nn.Module):
    """A small transformer over tokens, pooled by the mean."""

    def __init__(self, width: int = 32, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, width)
        self.place = nn.Parameter(0.02 * torch.randn(12, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids) + self.place).mean(1))


def mask_net(width: int = 12) -> nn.Sequential:
    """Three convolutions that give one logit a pixel."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 5, padding=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 1, 3, padding=1),
    )


@torch.no_grad()
def wrong(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of labels that the largest output misses."""
    model.eval()
    return (model(x).argmax(-1) != y).float().mean().item()


@torch.no_grad()
def one_minus_f1(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """One less the F1 of logits above zero."""
    model.eval()
    found = model(x) > 0
    hits = (found & (y > 0.5)).sum().item()
    return 1 - 2 * hits / max(1, found.sum().item() + (y > 0.5).sum().item())
