"""Character language models of the source text of Python's standard library.

The text is that of the running Python, so losses of different Python versions differ a little.
"""

from __future__ import annotations

import math
import string
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.task.recipe import Recipe
from surefoot.task.task import Task

# modules that every Python from 3.10 on has; the split is by file, so no sentence stands on both sides
TRAIN = """argparse ast calendar codecs configparser copy csv dataclasses enum fractions functools heapq locale pprint
queue random statistics string tempfile threading timeit traceback""".split()
VALIDATION = "bisect fnmatch gzip shutil textwrap".split()
ALPHABET = string.printable  # 100 characters; anything else counts as one more, the last
VOCABULARY = len(ALPHABET) + 1
CONTEXT = 64  # characters that a model sees at once


def gpt() -> Task:
    """A pre-norm transformer of two layers."""
    recipe = Recipe(
        lr=3e-3, weight_decay=0.1, schedule="linear(0, 1, 50) >> cosine", schedule_every="step", epochs=3,
        batch_size=32, clip_norm=1.0,
    )  # fmt: skip
    return _task(GPT, recipe)


def gru() -> Task:
    """One layer of gated recurrent units."""
    recipe = Recipe(
        lr=5e-3, weight_decay=0.01, schedule="cosine", schedule_every="step", epochs=3, batch_size=32, clip_norm=1.0
    )
    return _task(GRU, recipe)


class GPT(nn.Module):
    """Characters `[B, T]` to scores of the next ones `[B, T, V]`; the head shares the embedding's weights."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.characters.weight
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=0.02)  # as GPT-2: a tied head must start with small scores

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.characters(x) + self.places(places))))


class Block(nn.Module):
    """Causal self-attention and a feed-forward net, each added to its normalised input: `[B, T, W]` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, w))
        return x + self.feed(self.norm2(x))


class GRU(nn.Module):
    """Characters `[B, T]` to scores of the next ones `[B, T, V]`."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, width // 2)
        self.recurrent = nn.GRU(width // 2, width, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.characters(x))[0])


def next_character_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy in nats: outputs `[B, T, V]`, targets `[B, T]`."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


@cache
def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation data: stretches of text `[N, CONTEXT]`, and the same one character on."""
    train, val = (_windows(encode(text)) for text in texts())
    return train, val


@cache
def texts() -> tuple[str, str]:
    """The text to train on, and the text to validate on."""
    folder = Path(sysconfig.get_path("stdlib"))
    train, val = (
        "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names) for names in (TRAIN, VALIDATION)
    )
    return train, val


def encode(text: str) -> Tensor:
    """A text as character numbers."""
    number = {character: i for i, character in enumerate(ALPHABET)}
    return torch.tensor([number.get(character, len(ALPHABET)) for character in text])


def bigram_loss() -> float:
    """What a model must beat: the cross-entropy, in nats, of the bigram model of the training text.

    It gives the next character the frequency that it has after this one in the training text, each pair counted once
    more than it occurs, and is asked about the validation text.
    """
    train, val = map(encode, texts())
    counts = torch.ones(VOCABULARY, VOCABULARY, dtype=torch.float64)
    counts.index_put_((train[:-1], train[1:]), torch.ones(len(train) - 1, dtype=torch.float64), accumulate=True)
    log_share = (counts / counts.sum(1, keepdim=True)).log()
    loss = -float(log_share[val[:-1], val[1:]].mean())
    assert math.isfinite(loss)  # every pair has been counted once at least
    return loss


def _windows(characters: Tensor) -> tuple[Tensor, Tensor]:
    count = (len(characters) - 1) // CONTEXT
    x, y = (characters[start : start + count * CONTEXT].view(count, CONTEXT) for start in (0, 1))
    return x, y


def _task(model: Any, recipe: Recipe) -> Task:
    train, val = data()
    return Task(model=model, loss=next_character_loss, train=train, val=val, recipe=recipe)
