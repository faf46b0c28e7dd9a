"""The models that the programs of the second outside part share, and two measures."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), act()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Beat(nn.Module):
    """Two 1-d convolutions and a mean over time."""

    def __init__(self, width: int = 16, norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((1, width), (width, 2 * width)):
            layers += [nn.Conv1d(a, b, 7, stride=2, padding=3), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(4), nn.Flatten())
        self.head = nn.Linear(8 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ShapeNet(nn.Module):
    """Two convolutions with batch norm, one hidden layer's worth of pooling, a linear head called fc."""

    def __init__(self, width: int = 12, kinds: int = 4, norm: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(2 * width) if norm else nn.Identity()
        self.fc = nn.Linear(2 * width * 16, kinds)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.bn2(self.conv2(x)).relu(), 2)
        return self.fc(x.flatten(1))


class Forecaster(nn.Module):
    def __init__(self, hidden: int = 24, cell: type[nn.RNNBase] = nn.GRU) -> None:
        super().__init__()
        self.rnn = cell(1, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class ClickNet(nn.Module):
    """Entity embeddings and a small network on top."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(s, dim) for s in (40, 8, 24, 60))
        self.mlp = mlp(4 * dim, 48, 1)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([table(x[:, k]) for k, table in enumerate(self.tables)], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.embed(x)).squeeze(1)


class Writer(nn.Module):
    """A recurrent model of the next character."""

    def __init__(self, kinds: int, hidden: int = 48, cell: type[nn.RNNBase] = nn.GRU) -> None:
        super().__init__()
        self.embed = nn.Embedding(kinds, min(hidden, 24))
        self.rnn = cell(min(hidden, 24), hidden, batch_first=True)
        self.out = nn.Linear(hidden, kinds)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(x))[0])


class Sorter(nn.Module):
    """A transformer encoder that writes the sorted sequence."""

    def __init__(self, dim: int = 32, layers: int = 2, pre: bool = True) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(12, dim), nn.Parameter(torch.randn(8, dim) * 0.3)
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.0, batch_first=True, norm_first=pre)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 12)) if pre else nn.Linear(dim, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.word(x) + self.place))


def poisson(log_rate: Tensor, y: Tensor) -> Tensor:
    """The deviance: zero for a perfect forecast."""
    return (log_rate.exp() - y - torch.xlogy(y, log_rate.exp() / y.clamp(min=1))).mean() * 2


def by_token(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
