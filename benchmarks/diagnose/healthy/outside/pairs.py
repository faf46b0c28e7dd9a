"""Embeddings that are looked up, compared, pulled together and pushed apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, loss_of, variance
from benchmarks.diagnose.healthy.data import drawn
from benchmarks.diagnose.healthy.outside.made import blobs
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


class Ratings(nn.Module):
    """What a user thinks of an item: the product of their vectors, and a bias for each."""

    def __init__(self, users: int, items: int, rank: int, sparse: bool) -> None:
        super().__init__()
        self.user, self.item = (nn.Embedding(n, rank, sparse=sparse) for n in (users, items))
        self.offset = nn.Embedding(items, 1, sparse=sparse)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.3)
        nn.init.zeros_(self.offset.weight)
        self.mean = nn.Parameter(torch.tensor(3.0))

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs[:, 0], pairs[:, 1]
        return self.mean + (self.user(user) * self.item(item)).sum(1) + self.offset(item)[:, 0]


def _ratings(seed: int, rows: int, users: int = 60, items: int = 50) -> tuple[Tensor, Tensor]:
    g = drawn(seed)
    pairs = torch.stack([torch.randint(users, (rows,), generator=g), torch.randint(items, (rows,), generator=g)], 1)
    tastes, looks = torch.randn(users, 2, generator=g), torch.randn(items, 2, generator=g)
    stars = 3.5 + 0.5 * (tastes[pairs[:, 0]] * looks[pairs[:, 1]]).sum(1) + 0.6 * torch.randn(rows, generator=g)
    return pairs, stars


@healthy("o-sparse-gradients", family="o-looked-up", part="outside")
def sparse_gradients(watch: Watch, seed: int) -> Outcome:
    """SparseAdam for the tables, whose gradients are sparse, and Adam for a scalar."""
    torch.manual_seed(seed)
    x, y = _ratings(seed, 128 * 400 + 3000)
    xv, yv, x, y = x[:3000], y[:3000], x[3000:], y[3000:]
    model, criterion = Ratings(60, 50, 3, sparse=True), nn.MSELoss()
    first = loss_of(model, criterion, xv, yv)
    tables = [model.user.weight, model.item.weight, model.offset.weight]
    one, two = torch.optim.SparseAdam(tables, lr=2e-2), torch.optim.Adam([model.mean], lr=2e-2)
    w = watch(model, [one, two], loss=criterion)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, 400) for each in (one, two)]
    for inputs, targets in batches(x, y, size=128):
        one.zero_grad()
        two.zero_grad()
        criterion(model(inputs), targets).backward()
        one.step()
        two.step()
        for schedule in schedules:
            schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-factors-from-few-ratings", family="o-looked-up", part="outside")
def factors(watch: Watch, seed: int) -> Outcome:
    """Users and items of whom most are absent from each batch; weight decay keeps the factors small."""
    torch.manual_seed(seed)
    x, y = _ratings(seed, 64 * 450 + 3000, users=40, items=30)
    xv, yv, x, y = x[:3000], y[:3000], x[3000:], y[3000:]
    model, criterion = Ratings(40, 30, 4, sparse=False), nn.L1Loss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)
    with watch(model, optimizer, loss=criterion) as w:
        for step, (inputs, targets) in enumerate(batches(x, y, size=64)):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            if step % 75 == 74:
                w.validated(loss=loss_of(model, criterion, xv, yv))
    base = criterion(yv.median().expand_as(yv), yv).item()
    return Outcome(first, loss_of(model, criterion, xv, yv), base)


@healthy("o-which-two-belong-together", family="o-compared", part="outside")
def together(watch: Watch, seed: int) -> Outcome:
    """InfoNCE over 48 pairs of noisy views: targets are the row numbers, the best guess is log 48."""
    torch.manual_seed(seed)
    g = drawn(seed)
    core = torch.randn(48 * 220 + 48 * 20, 4, generator=g)
    mix = torch.randn(2, 4, 16, generator=g) / 2
    left, right = (torch.tanh(core @ m) + 0.35 * torch.randn(len(core), 16, generator=g) for m in mix)
    one, two = mlp(16, 48, 12, act=nn.GELU), mlp(16, 48, 12, act=nn.GELU)
    model = nn.ModuleDict({"left": one, "right": two})

    def contrast(a: Tensor, b: Tensor) -> Tensor:
        scores = F.normalize(a) @ F.normalize(b).T / 0.1
        rows = torch.arange(len(a))
        return (F.cross_entropy(scores, rows) + F.cross_entropy(scores.T, rows)) / 2

    @torch.no_grad()
    def measured() -> float:
        parts = zip(left[:960].split(48), right[:960].split(48), strict=True)
        return sum(contrast(one(a), two(b)).item() for a, b in parts) / 20

    first = measured()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-3)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 220)
    for a, b in batches(left[960:], right[960:], size=48):
        optimizer.zero_grad()
        outputs = one(a)
        loss = contrast(outputs, two(b))
        w.observe(loss=loss, outputs=outputs, targets=None, inputs=a)
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, measured(), math.log(48))


@healthy("o-triplets", family="o-compared", part="outside")
def triplets(watch: Watch, seed: int) -> Outcome:
    """Anchor, friend, foe, margin 1: a loss of exactly 0 on many rows; overlapping classes keep some above."""
    torch.manual_seed(seed)
    g = drawn(seed)
    x, y = blobs(seed, 6000, columns=12, classes=6, spread=1.2)
    groups = [x[y == label] for label in range(6)]
    own = torch.randint(6, (32 * 220 + 1500,), generator=g)
    other = (own + torch.randint(1, 6, own.shape, generator=g)) % 6
    rows = torch.stack([torch.empty(len(own), 12)] * 3, 1)
    for place, labels in enumerate((own, own, other)):
        for label in range(6):
            chosen = labels == label
            found = torch.randint(len(groups[label]), (int(chosen.sum()),), generator=g)
            rows[chosen, place] = groups[label][found]
    model, criterion = mlp(12, 48, 8, act=nn.Tanh), nn.TripletMarginLoss(margin=1.0)

    @torch.no_grad()
    def measured() -> float:
        return criterion(*(model(rows[:1500, place]) for place in range(3))).item()

    first = measured()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for (batch,) in batches(rows[1500:], size=32):
        optimizer.zero_grad()
        anchor, friend, foe = (model(batch[:, place]) for place in range(3))
        criterion(anchor, friend, foe).backward()
        optimizer.step()
    w.close()
    return Outcome(first, measured(), 1.0)
