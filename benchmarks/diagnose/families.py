"""Data and models of the faulty trainings. Half of the families are for building detectors, half only for measuring."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

Split = tuple[Tensor, Tensor, Tensor, Tensor]  # training inputs and targets, validation inputs and targets


@dataclass(frozen=True)
class Family:
    """kind: what is predicted: "classes", "binary", "labels" (several at once), "numbers" or "tokens"
    part: "building" or "measuring"
    data: of a seed; model: of a `Setting`
    sound: the settings that differ from the usual ones
    """

    kind: str
    part: str
    data: Callable[[int], Split]
    model: Callable[[Any], nn.Module]
    sound: dict[str, Any]


class Pick(nn.Module):
    """The last item of a sequence."""

    def forward(self, x: Any) -> Tensor:
        return (x[0] if isinstance(x, tuple) else x)[:, -1]


class First(nn.Module):
    def forward(self, x: tuple[Tensor, Any]) -> Tensor:
        return x[0]


class Residual(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Positions(nn.Module):
    """Tokens and their places as vectors."""

    def __init__(self, tokens: int, length: int, width: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.token(x) + self.place(torch.arange(x.shape[1]))


class Attention(nn.Module):
    """A block of a transformer, normalised first or (as at first published) last."""

    def __init__(self, s: Any, causal: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(s.width, 2, dropout=s.dropout, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(s.width, 2 * s.width), s.act(), nn.Linear(2 * s.width, s.width))
        self.one, self.two, self.causal = nn.LayerNorm(s.width), nn.LayerNorm(s.width), causal

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        h = self.one(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.two(x))


def hidden(s: Any, width: int) -> tuple[list[nn.Module], int]:
    """Layers of a plain network."""
    parts: list[nn.Module] = []
    for _ in range(s.depth):
        parts += [nn.Linear(width, s.width), *([nn.BatchNorm1d(s.width)] if s.norm else []), s.act()]
        parts += [nn.Dropout(s.dropout)] if s.dropout else []
        width = s.width
    return parts, width


def mlp(inputs: int, outputs: int) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        parts, width = hidden(s, inputs)
        return nn.Sequential(*parts, nn.Linear(width, outputs), *s.ending())

    return make


def cnn(outputs: int, size: int = 8) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        c = max(1, s.width // 4)
        norm = [nn.BatchNorm2d(c)] if s.norm else []
        parts: list[nn.Module] = [nn.Conv2d(1, c, 3, padding=1), *norm, s.act()]
        for _ in range(s.depth):
            parts += [nn.Conv2d(c, c, 3, padding=1), *([nn.BatchNorm2d(c)] if s.norm else []), s.act()]
        parts += [nn.AvgPool2d(2), nn.Flatten(), *([nn.Dropout(s.dropout)] if s.dropout else [])]
        return nn.Sequential(*parts, nn.Linear(c * (size // 2) ** 2, outputs), *s.ending())

    return make


def residual_cnn(outputs: int) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        c = max(1, s.width // 2)
        blocks = [
            Residual(
                nn.Conv2d(c, c, 3, padding=1),
                nn.BatchNorm2d(c),
                s.act(),
                nn.Conv2d(c, c, 3, padding=1),
                nn.BatchNorm2d(c),
            )
            for _ in range(s.depth)
        ]
        tail = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), *([nn.Dropout(s.dropout)] if s.dropout else [])]
        return nn.Sequential(
            nn.Conv2d(1, c, 3, padding=1), s.act(), *blocks, *tail, nn.Linear(4 * c, outputs), *s.ending()
        )

    return make


def waves_cnn(outputs: int) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        c = s.width
        parts: list[nn.Module] = [nn.Conv1d(1, c, 5, padding=2), s.act()]
        for _ in range(s.depth):
            parts += [nn.Conv1d(c, c, 5, padding=2, stride=2), *([nn.BatchNorm1d(c)] if s.norm else []), s.act()]
        parts += [nn.AdaptiveAvgPool1d(2), nn.Flatten(), *([nn.Dropout(s.dropout)] if s.dropout else [])]
        return nn.Sequential(*parts, nn.Linear(2 * c, outputs), *s.ending())

    return make


def recurrent(inputs: int, outputs: int, kind: Any = nn.GRU) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        drop = [nn.Dropout(s.dropout)] if s.dropout else []
        parts, width = hidden(s, s.width) if s.depth > 1 else ([], s.width)
        return nn.Sequential(
            kind(inputs, s.width, batch_first=True), Pick(), *drop, *parts, nn.Linear(width, outputs), *s.ending()
        )

    return make


def char_gru(tokens: int) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        drop = [nn.Dropout(s.dropout)] if s.dropout else []
        body = [nn.Embedding(tokens, 16), nn.GRU(16, s.width, batch_first=True), First(), *drop]
        return nn.Sequential(*body, nn.Linear(s.width, tokens), *s.ending())

    return make


def transformer(tokens: int, length: int, outputs: int, causal: bool) -> Callable[[Any], nn.Module]:
    def make(s: Any) -> nn.Module:
        blocks = [Attention(s, causal) for _ in range(s.depth)]
        tail = [] if causal else [Pick()]
        return nn.Sequential(
            Positions(tokens, length, s.width),
            *blocks,
            nn.LayerNorm(s.width),
            *tail,
            nn.Linear(s.width, outputs),
            *s.ending(),
        )

    return make


def shared(n: int, count: int, make: Callable[[torch.Generator], tuple[Tensor, Tensor]]) -> Callable[[int], Split]:
    """Data that are the same for all seeds: `count` items for training, the rest for validation."""

    @cache
    def both() -> tuple[Tensor, Tensor]:
        return make(torch.Generator().manual_seed(n))

    def data(seed: int) -> Split:
        x, y = both()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        x, y = x[order], y[order]
        return x[:count], y[:count], x[count:], y[count:]

    return data


def blobs(g: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(1400, 12, generator=g)
    hidden = torch.tanh(x @ torch.randn(12, 16, generator=g) / 2)
    return x, (hidden @ torch.randn(16, 5, generator=g)).argmax(1)


def labels(g: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(1400, 20, generator=g)
    hidden = torch.tanh(x @ torch.randn(20, 16, generator=g) / 2)
    return x, (hidden @ torch.randn(16, 6, generator=g) > 0.5).float()


def smooth(g: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(1400, 10, generator=g)
    y = torch.tanh(x @ torch.randn(10, 8, generator=g) / 2) @ torch.randn(8, 1, generator=g)
    y = y + 0.1 * torch.randn(len(y), 1, generator=g)
    return x, (y - y.mean()) / y.std()


def sklearn_table(name: str, numbers: bool = False) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def make(g: torch.Generator) -> tuple[Tensor, Tensor]:
        from sklearn import datasets

        table = getattr(datasets, f"load_{name}")()
        x = torch.tensor(table.data, dtype=torch.float32)
        x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
        y = torch.tensor(table.target)
        if numbers:
            y = y.float().unsqueeze(1)
            return x, (y - y.mean()) / y.std()
        return x, y if int(y.max()) > 1 else y.float().unsqueeze(1)

    return make


def digit_images(g: torch.Generator) -> tuple[Tensor, Tensor]:
    from sklearn import datasets

    table = datasets.load_digits()
    x = torch.tensor(table.images, dtype=torch.float32).unsqueeze(1)
    return (x - x.mean()) / x.std(), torch.tensor(table.target)


def digit_rows(g: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = digit_images(g)
    return x.flatten(1), y


def waves(g: torch.Generator) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, 4, (1000,), generator=g)
    t = torch.arange(24) / 24
    rate = 1.0 + y[:, None] * 0.8 + 0.2 * torch.randn(1000, 1, generator=g)
    x = torch.sin(6.28 * (rate * t + torch.rand(1000, 1, generator=g))) + 0.3 * torch.randn(1000, 24, generator=g)
    return x.unsqueeze(2), y


def signals(g: torch.Generator) -> tuple[Tensor, Tensor]:
    t = torch.arange(32) / 32
    rate = 1 + 3 * torch.rand(1200, 1, generator=g)
    x = torch.sin(6.28 * (rate * t + torch.rand(1200, 1, generator=g))) + 0.2 * torch.randn(1200, 32, generator=g)
    return x.unsqueeze(1), (rate - 2.5) / 0.87


def sums(g: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(1200, 12, 2, generator=g)
    y = (x[:, :, 0] * (x[:, :, 1] > 0)).sum(1, keepdim=True) / 2.5
    return x, y


def token_counts(g: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 12, (1500, 16), generator=g)
    return x, (x == 3).sum(1).clamp(max=3)


def text(length: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def make(g: torch.Generator) -> tuple[Tensor, Tensor]:
        source = " ".join(
            (inspect.getdoc(m) or "")
            for m in (textwrap, inspect, inspect.getdoc, torch.optim.Adam, torch.randn, nn.Linear)
        )
        words = "".join(c if c.isalpha() else " " for c in source.lower())
        ids = torch.tensor(
            [0 if c == " " else (ord(c) - 96 if "a" <= c <= "z" else 0) for c in " ".join(words.split())]
        )
        at = torch.randint(0, len(ids) - length - 1, (1200,), generator=g)
        rows = torch.stack([ids[i : i + length + 1] for i in at])
        return rows[:, :-1], rows[:, 1:]

    return make


ADAM: dict[str, Any] = {"optimizer": "adam"}
FAMILIES: dict[str, Family] = {
    "blobs-mlp": Family("classes", "building", shared(1, 1024, blobs), mlp(12, 5), {"lr": 0.005}),
    "smooth-mlp": Family("numbers", "building", shared(2, 1024, smooth), mlp(10, 1), {"lr": 0.005}),
    "digits-cnn": Family(
        "classes", "building", shared(3, 1400, digit_images), cnn(10), {"lr": 0.005, "depth": 1, "steps": 200}
    ),
    "cancer-mlp": Family(
        "binary", "building", shared(4, 400, sklearn_table("breast_cancer")), mlp(30, 1), {"lr": 0.003, "steps": 200}
    ),
    "waves-gru": Family(
        "classes", "building", shared(5, 800, waves), recurrent(1, 4), {"lr": 0.01, "depth": 1, "steps": 200}
    ),
    "text-gru": Family(
        "tokens", "building", shared(6, 1000, text(16)), char_gru(27), {"lr": 0.01, "depth": 1, "steps": 200}
    ),
    "digits-mlp": Family("classes", "measuring", shared(7, 1400, digit_rows), mlp(64, 10), {"lr": 0.003, "steps": 200}),
    "diabetes-mlp": Family(
        "numbers",
        "measuring",
        shared(8, 300, sklearn_table("diabetes", True)),
        mlp(10, 1),
        {"lr": 0.003, "steps": 120, "width": 16},
    ),
    "labels-mlp": Family("labels", "measuring", shared(9, 1024, labels), mlp(20, 6), {"lr": 0.005, "width": 48}),
    "counts-transformer": Family(
        "classes",
        "measuring",
        shared(10, 1200, token_counts),
        transformer(12, 16, 4, False),
        {"lr": 0.004, "depth": 2, "steps": 250},
    ),
    "text-transformer": Family(
        "tokens",
        "measuring",
        shared(11, 1000, text(16)),
        transformer(27, 16, 27, True),
        {"lr": 0.005, "depth": 1, "steps": 200},
    ),
    "signals-cnn": Family(
        "numbers",
        "measuring",
        shared(12, 900, signals),
        waves_cnn(1),
        {"lr": 0.005, "depth": 2, "width": 16, "steps": 200},
    ),
    "digits-residual": Family(
        "classes",
        "measuring",
        shared(13, 1400, digit_images),
        residual_cnn(10),
        {"lr": 0.005, "width": 16, "depth": 2, "steps": 120},
    ),
    "sums-lstm": Family(
        "numbers", "measuring", shared(14, 1000, sums), recurrent(2, 1, nn.LSTM), {"lr": 0.01, "depth": 1, "steps": 250}
    ),
}
