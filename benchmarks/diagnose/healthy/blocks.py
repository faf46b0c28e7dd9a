"""Small models that several programs are built of."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, norm: type[nn.Module] | None = None, drop: float = 0.0):
    """Linear layers from size to size, with norm, activation and dropout between them."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(wide, narrow), *([norm(narrow)] if norm else []), act()]
        layers += [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Recurrent(nn.Module):
    """Embedding or features, GRU or LSTM, head at each step or at the last."""

    def __init__(self, cell: str, inside: int, hidden: int, out: int, tokens: bool = True, each: bool = True) -> None:
        super().__init__()
        self.inside = nn.Embedding(inside, hidden) if tokens else nn.Linear(inside, hidden)
        self.cell = getattr(nn, cell)(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, out)
        self.each = each

    def forward(self, x: Tensor) -> Tensor:
        states = self.cell(self.inside(x))[0]
        return self.head(states if self.each else states[:, -1])


class Attention(nn.Module):
    """Self-attention, pre-norm block; `mask` is added to the scores, -inf where not to look."""

    def __init__(self, width: int, heads: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ahead = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(drop), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        rows, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        weight = (scores if mask is None else scores + mask).softmax(-1)
        x = x + self.out((weight @ v).transpose(1, 2).reshape(rows, length, width))
        return x + self.ahead(self.norm2(x))


def causal(length: int) -> Tensor:
    """0 where a position may look, -inf at what comes later, [length, length]."""
    return torch.full((length, length), float("-inf")).triu(1)


class Transformer(nn.Module):
    """Tokens in, one answer per position out; looks back only if `look_back`; head tied to the embedding if `tied`."""

    def __init__(
        self,
        tokens: int,
        out: int,
        length: int,
        width: int = 32,
        depth: int = 2,
        look_back: bool = False,
        tied: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Attention(width, drop=drop) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, out, bias=False)
        nn.init.normal_(self.token.weight, std=0.02 if tied else 1.0)
        nn.init.normal_(self.place.weight, std=0.02)
        if tied:
            self.head.weight = self.token.weight
        self.register_buffer("mask", causal(length) if look_back else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.place(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h, None if self.mask is None else self.mask[: x.shape[1], : x.shape[1]])
        return self.head(self.norm(h))


class PerToken(nn.Module):
    """Cross-entropy over [N, L, K] and [N, L]; labels of -100 do not count."""

    def __init__(self, **options: float) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss(**options)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.inner(outputs.flatten(0, 1), targets.flatten())
