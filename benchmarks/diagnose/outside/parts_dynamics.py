"""What the programs on rates, shapes and lengths share: data sets with a fixed split, a few models, batches, errors."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Four = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets to train on, inputs and targets to validate on


def split(x: Tensor, y: Tensor, share: float = 0.25) -> Four:
    """The same rows every time, whatever the seed of the program."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(11))
    held, kept = order[: int(share * len(x))], order[int(share * len(x)) :]
    return x[kept], y[kept], x[held], y[held]


def standard(train: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the mean and the deviation of the first."""
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return (train - mean) / std, (other - mean) / std


def _float(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


@cache
def digits(images: bool = False) -> Four:
    """Scikit-learn's digits, centred and of unit deviation; as 64 numbers or as one channel of 8 by 8."""
    data = datasets.load_digits()
    x = (_float(data.data) - 4.88) / 6.02
    return split(x.reshape(-1, 1, 8, 8) if images else x, torch.as_tensor(data.target))


@cache
def raw_table(name: str) -> Four:
    """A table of scikit-learn as it is delivered: `wine`, `breast_cancer` or `diabetes` (this one unscaled)."""
    data = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
    y = _float(data.target).reshape(-1, 1) if name != "wine" else torch.as_tensor(data.target)
    return split(_float(data.data), y)


@cache
def table(name: str) -> Four:
    """The same, standardised by the training rows; the targets of `diabetes` too."""
    x, y, xv, yv = raw_table(name)
    x, xv = standard(x, xv)
    if name == "diabetes":
        y, yv = standard(y, yv)
    return x, y, xv, yv


@cache
def friedman(n: int = 1200, noise: float = 1.5) -> Four:
    """Friedman's first function: a smooth regression on ten inputs of which five matter."""
    x, y = datasets.make_friedman1(n_samples=n, noise=noise, random_state=3)
    x, y, xv, yv = split(_float(x), _float(y).reshape(-1, 1))
    x, xv = standard(x, xv)
    y, yv = standard(y, yv)
    return x, y, xv, yv


@cache
def multilabel() -> Four:
    """Twenty counts, six labels that may hold together."""
    x, y = datasets.make_multilabel_classification(
        n_samples=1600, n_features=20, n_classes=6, n_labels=2, random_state=5
    )
    x, y, xv, yv = split(_float(x), _float(y))
    x, xv = standard(x, xv)
    return x, y, xv, yv


@cache
def spirals(n: int = 800, turns: float = 1.2) -> Four:
    """Two arms wound into each other."""
    g = torch.Generator().manual_seed(21)
    t = torch.rand(n, generator=g).sqrt() * turns * 2 * math.pi
    arm = torch.arange(n) % 2
    angle = t + math.pi * arm
    x = torch.stack([t * angle.cos(), t * angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=g)
    return split(x / x.std(), arm)


@cache
def ratings(rank: int = 4) -> Four:
    """Pairs of user and item, and the standardised rating: a product of factors plus noise."""
    g = torch.Generator().manual_seed(8)
    users, items = torch.randn(150, rank, generator=g), torch.randn(100, rank, generator=g)
    pairs = torch.stack([torch.randint(150, (9000,), generator=g), torch.randint(100, (9000,), generator=g)], 1)
    r = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1) / math.sqrt(rank)
    return split(pairs, r + 0.2 * torch.randn(9000, generator=g))


@cache
def waves(n: int = 900, length: int = 24) -> Four:
    """Windows of noisy sines of random pace and phase, and a noisy reading of the value that comes next."""
    g = torch.Generator().manual_seed(13)
    pace, phase = 0.2 + 0.5 * torch.rand(n, 1, generator=g), 6.28 * torch.rand(n, 1, generator=g)
    x = (pace * torch.arange(length + 1) + phase).sin() * 1.4
    noisy = x[:, :-1] + 0.1 * torch.randn(n, length, generator=g)
    return split(noisy.unsqueeze(-1), x[:, -1:] + 0.3 * torch.randn(n, 1, generator=g))


@cache
def lines() -> Four:
    """Lines of three modules of Python as bags of 12 hashed words, and which module each is from."""
    bags, labels = [], []
    for label, module in enumerate((argparse, textwrap, json.decoder)):
        for line in inspect.getsource(module).splitlines():
            words = re.findall(r"[a-z]+", line.lower())
            if len(words) > 2:
                codes = [sum(ord(c) * 31**i for i, c in enumerate(word)) % 600 for word in words]
                bags.append((codes * 12)[:12])
                labels.append(label)
    keep = [i for i, label in enumerate(labels) if label or i % 4 == 0]  # argparse is far longer than the others
    return split(torch.tensor(bags)[keep], torch.tensor(labels)[keep])


@cache
def text(length: int = 24, modules: str = "argparse", limit: int = 40000) -> tuple[Four, int]:
    """Windows of characters of Python's own source, the same shifted by one, and the size of the vocabulary."""
    source = {"argparse": argparse, "textwrap": textwrap}[modules]
    chars = re.sub(r"[^a-z0-9_ \n().,:='\"]", "", inspect.getsource(source).lower())[:limit]
    vocabulary = sorted(set(chars))
    codes = torch.tensor([vocabulary.index(c) for c in chars])
    windows = codes.unfold(0, length + 1, length // 2)
    edge = int(0.85 * len(windows))  # the end of the file is held out
    train, held = windows[:edge], windows[edge + 2 :]
    return (train[:, :-1], train[:, 1:], held[:, :-1], held[:, 1:]), len(vocabulary)


def loader(x: Tensor, y: Tensor, size: int, shuffle: bool = True) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=shuffle, drop_last=True)


def batches(x: Tensor, y: Tensor, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches, every row once in each pass, in an order drawn anew."""
    done = 0
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - size + 1, size):
            if done == steps:
                return
            yield x[order[start : start + size]], y[order[start : start + size]]
            done += 1


def finite(value: float) -> float:
    """Infinity for what is no number, so that it compares as worse."""
    return value if math.isfinite(value) else math.inf


@torch.no_grad()
def score(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """The loss on these rows in evaluation mode; the mode is put back."""
    was = model.training
    model.eval()
    value = float(criterion(model(x), y))
    model.train(was)
    return finite(value)


def tokens(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over every position of every window."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Tokens(nn.Module):
    """The same as a criterion."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return tokens(logits, targets)


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


class SmallCNN(nn.Module):
    """Two convolutions and a head on images of 8 by 8."""

    def __init__(self, width: int = 12, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), act(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), act()
        )
        self.head = nn.Linear(2 * width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class CharGRU(nn.Module):
    """Embedding, GRU, linear head at every position."""

    def __init__(self, vocabulary: int, width: int = 64, emb: int = 24) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, emb)
        self.rnn = nn.GRU(emb, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.emb(x))[0])


class CharFormer(nn.Module):
    """A small causal transformer on characters."""

    def __init__(self, vocabulary: int, length: int = 24, width: int = 32, depth: int = 2, pre: bool = True) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, width)
        self.pos = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=pre)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        h = self.emb(x) + self.pos[: x.shape[1]]
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return self.head(self.norm(h))


class Forecaster(nn.Module):
    """An LSTM that reads a window and tells the next value."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Factors(nn.Module):
    """The rating as the product of a user's and an item's factors."""

    def __init__(self, dim: int = 8, std: float | None = 0.3) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(150, dim), nn.Embedding(100, dim)
        if std is not None:
            nn.init.normal_(self.users.weight, std=std)
            nn.init.normal_(self.items.weight, std=std)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(1)


class AutoEncoder(nn.Module):
    """Digits through a bottleneck and back."""

    def __init__(self, code: int = 16, width: int = 96) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, code))
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class LineBag(nn.Module):
    """The mean of the embeddings of a line's words, and a classifier on it."""

    def __init__(self, emb: int = 32) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(600, emb)
        self.fc = nn.Sequential(nn.Linear(emb, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, words: Tensor) -> Tensor:
        return self.fc(self.bag(words))
