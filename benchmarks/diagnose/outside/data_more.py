"""Data in a bad order, without information, with broken batches, or too slow in coming."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "digits in order of their class",
    family="digit-images",
    causes="data-order",
    symptoms="loss-oscillating loss-spike loss-not-decreasing",
)
def sorted_digits(watch: Watch, seed: int, mended: bool) -> float:
    """Files are listed folder by folder, one folder a class, and shuffle=True was forgotten."""
    torch.manual_seed(seed)
    split = parts.digits()
    order = split.y.argsort()
    loader = DataLoader(TensorDataset(split.x[order], split.y[order]), batch_size=32, shuffle=mended)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(6):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            outputs = model(x)
            loss = criterion(outputs, y)
            loss.backward()
            optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "waves in order of their frequency",
    family="wave-classes",
    causes="data-order",
    symptoms="loss-oscillating loss-spike loss-not-decreasing",
)
def sorted_waves(watch: Watch, seed: int, mended: bool) -> float:
    """Recordings stand in the order of the sessions, and a session is of one kind; slices are taken in turn."""
    torch.manual_seed(seed)
    split = parts.wave_classes()
    order = split.y.argsort(stable=True)
    model = parts.WaveNet(3, cell=nn.GRU)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(7):
        model.train()
        if mended:
            order = torch.randperm(len(split.y))
        for rows in order.split(40):
            x, y = split.x[rows], split.y[rows]
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return parts.wrong(model, split.vx, split.vy)


@faulty(
    "inputs shuffled without their labels",
    family="digit-vectors",
    causes="data-unlearnable",
    symptoms="loss-not-decreasing plateau overfitting",
)
def pairing_lost(watch: Watch, seed: int, mended: bool) -> float:
    """`x = x[torch.randperm(n)]; y = y[torch.randperm(n)]`: two permutations."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    one, two = torch.randperm(len(split.x)), torch.randperm(len(split.x))
    x_all, y_all = split.x[one], split.y[one if mended else two]
    model = parts.mlp(64, 24, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(5):
        model.train()
        for x, y in batches(x_all, y_all, size=48):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


class _Windows(Dataset):
    """Windows of token sequences and their labels, augmented by a random choice of the row."""

    def __init__(self, x: Tensor, y: Tensor, sound: bool) -> None:
        self.x, self.y, self.sound = x, y, sound

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        row = int(torch.randint(len(self.y), ()))
        return self.x[row], self.y[row if self.sound else i]


@faulty(
    "a dataset that draws another row for the label",
    family="token-counts",
    causes="data-unlearnable",
    symptoms="loss-not-decreasing plateau",
)
def random_row(watch: Watch, seed: int, mended: bool) -> float:
    """__getitem__ draws a row at random for the tokens and takes the label of the row that was asked for."""
    torch.manual_seed(seed)
    split = parts.token_counts()
    loader = DataLoader(_Windows(split.x, split.y, mended), batch_size=60)
    model = parts.TokenNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    for _epoch in range(7):
        model.train()
        for tokens, labels in loader:
            logits = model(tokens)
            loss = F.cross_entropy(logits, labels)
            w.observe(loss=loss, outputs=logits, targets=labels, inputs=tokens)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    w.close()
    return loss_of(model, F.cross_entropy, split.vx, split.vy)


@faulty(
    "sentinels in a sensor log",
    family="friedman",
    causes="bad-batch",
    symptoms="loss-spike exploding-gradient loss-oscillating",
)
def sentinel_rows(watch: Watch, seed: int, mended: bool) -> float:
    """Two rows of 1800 hold -999 in every column, the logger's word for a failure."""
    torch.manual_seed(seed)
    split = parts.friedman()
    x_train = split.x.clone()
    keep = torch.ones(len(x_train), dtype=torch.bool)
    x_train[[400, 1300]] = -999.0
    keep[[400, 1300]] = not mended
    model = parts.mlp(10, 48, 1)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    loader = DataLoader(TensorDataset(x_train[keep], split.y[keep]), batch_size=50, shuffle=True)
    for _epoch in range(10):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "one shard rated in percent",
    family="ratings",
    causes="bad-batch",
    symptoms="loss-spike exploding-gradient loss-oscillating",
)
def shard_in_percent(watch: Watch, seed: int, mended: bool) -> float:
    """Ratings are read shard by shard in random order; one shard comes from an export with all values times 100."""
    torch.manual_seed(seed)
    split = parts.ratings()
    shards = list(zip(split.x.split(135), split.y.split(135), strict=True))
    if not mended:
        shards[17] = (shards[17][0], shards[17][1] * 100)
    model = parts.Factors()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    for _epoch in range(8):
        for i in torch.randperm(len(shards)).tolist():
            pair, rating = shards[i]
            found = model(pair)
            loss = F.mse_loss(found, rating)
            w.observe(loss=loss, outputs=found, targets=rating, inputs=pair)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    return loss_of(model, F.mse_loss, split.vx, split.vy)


class _Slow(Dataset):
    """Images that are standardised when they are asked for, by the statistics of the whole table."""

    def __init__(self, x: Tensor, y: Tensor, cached: bool) -> None:
        self.x, self.y, self.cached = x, y, cached
        if cached:
            self.x = self._standardised()

    def _standardised(self) -> Tensor:
        return (self.x - self.x.mean(dim=0)) / self.x.std(dim=0).clamp(min=1.0)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x if self.cached else self._standardised()
        return x[i].view(1, 8, 8), self.y[i]


@faulty("the whole table scaled for every image", family="digit-images", causes="input-bound", symptoms="wasteful")
def scaled_for_every_image(watch: Watch, seed: int, mended: bool) -> float:
    """__getitem__ standardises all rows to return one of them. Nothing is lost but time."""
    torch.manual_seed(seed)
    split = parts.raw("digits")
    loader = DataLoader(_Slow(split.x, split.y, mended), batch_size=32, shuffle=True, drop_last=True)
    model = parts.Cnn(dropout=0.1)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(2):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
    w.close()
    held = (split.vx - split.x.mean(0)) / split.x.std(0).clamp(min=1.0)
    return loss_of(model, criterion, held.view(-1, 1, 8, 8), split.vy)


class _Lines(Dataset):
    """Lines of numbers as text, parsed when they are asked for."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.lines = [" ".join(f"{value:.17f}" for value in row) for row in torch.cat([x, y], 1).tolist()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> Tensor:
        for _check in range(30):  # a validation of the line, written without thought
            values = [float(value) for value in self.lines[i].split(" ")]
        return torch.tensor(values)


@faulty("text parsed at every visit", family="friedman", causes="input-bound", symptoms="wasteful")
def parsed_at_every_visit(watch: Watch, seed: int, mended: bool) -> float:
    """Rows stay text, and each epoch parses and checks all of them again in the training process."""
    torch.manual_seed(seed)
    split = parts.friedman(1200)
    rows = _Lines(split.x, split.y)
    table = torch.stack(list(rows)) if mended else None
    loader = DataLoader(rows, batch_size=45, shuffle=True)
    model = parts.mlp(10, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for _epoch in range(10):
        model.train()
        for batch in loader if table is None else table[torch.randperm(len(table))].split(45):
            x, y = batch[:, :-1], batch[:, -1:]
            prediction = model(x)
            loss = F.mse_loss(prediction, y)
            w.observe(loss=loss, outputs=prediction, targets=y, inputs=x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, F.mse_loss, split.vx, split.vy))
    w.close()
    return loss_of(model, F.mse_loss, split.vx, split.vy)
