"""Labels that hold one class only or mostly, and rows that take long to come."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty("2 class read from the wrong part of the path", family="shapes", causes="labels-constant", symptoms="silent")
def class_from_path(watch: Watch, seed: int, mended: bool) -> float:
    """`path.split("/")[0]` is the name of the split, not of the class: every picture is of class 0."""
    torch.manual_seed(seed)
    data = parts.shapes()
    paths = [f"train/{('disc', 'square', 'cross', 'ring')[k]}/{i}.png" for i, k in enumerate(data.y.tolist())]
    words = [path.split("/")[1 if mended else 0] for path in paths]
    names = ("disc", "square", "cross", "ring") if mended else tuple(sorted(set(words)))
    labels = torch.tensor([names.index(word) for word in words])
    model = parts.ShapeNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, labels):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty("2 names among sixteen words", family="tagged", causes="class-imbalance", symptoms="silent plateau")
def rare_tags(watch: Watch, seed: int, mended: bool) -> float:
    """Tags of which 95 in 100 are `other`: the loss looks low. Judged is how many tags of each kind are missed."""
    torch.manual_seed(seed)
    data = parts.tagged()

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word = nn.Embedding(50, 12)
            self.rnn = nn.GRU(12, 12, batch_first=True, bidirectional=True)
            self.out = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(self.word(x))[0])

    model = Tagger()
    share = data.y.flatten().bincount() / data.y.numel()
    weight = (1 / share) / (1 / share * share).sum() if mended else None
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for _ in range(3):
        for x, y in parts.loader(data.x, data.y):
            logits = model(x)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), weight)
            w.observe(loss=loss, outputs=logits.flatten(0, 1), targets=y.flatten(), inputs=x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    with torch.no_grad():
        said = model(data.xv).argmax(-1)
    return float(torch.stack([(said[data.yv == k] != k).float().mean() for k in range(3)]).mean())


class _Salted(Dataset):
    """Shapes with single pixels set at random, pixel by pixel."""

    def __init__(self, x: Tensor, y: Tensor, by_pixel: bool) -> None:
        self.x, self.y, self.by_pixel = x, y, by_pixel

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = self.x[i].clone()
        if not self.by_pixel:
            image[torch.rand_like(image) < 0.01] = 2.0
            return image, self.y[i]
        for row in range(16):
            for column in range(16):
                if random.random() < 0.01:
                    image[0, row, column] = 2.0
                else:
                    image[0, row, column] = image[0, row, column].item()
        return image, self.y[i]


@faulty("2 noise added pixel by pixel in Python", family="shapes", causes="input-bound", symptoms="wasteful")
def noise_by_pixel(watch: Watch, seed: int, mended: bool) -> float:
    """Each image is walked through in two Python loops. The result is as good; most of the time goes there."""
    torch.manual_seed(seed)
    random.seed(seed)
    data = parts.shapes()
    model = parts.ShapeNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    train = DataLoader(_Salted(data.x[:1200], data.y[:1200], not mended), batch_size=16, shuffle=True, drop_last=True)
    w = watch(model, optimizer, loss=criterion)
    for x, y in train:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)
