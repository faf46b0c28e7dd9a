"""Ratings by factors; genes with several functions; points told apart by distance."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, loss_of, variance
from benchmarks.diagnose.healthy.registry import Outcome, healthy

rating = partial(healthy, family="ratings-factors", part="measuring")
gene = partial(healthy, family="genes-textcnn", part="measuring")
metric = partial(healthy, family="points-metric", part="measuring")


class Factors(nn.Module):
    """The mean, a number for each user and each film, and the product of their vectors."""

    def __init__(self, users, films, mean, sparse):
        super().__init__()
        self.users, self.films = nn.Embedding(users, 5, sparse=sparse), nn.Embedding(films, 5, sparse=sparse)
        for table in (self.users, self.films):
            nn.init.normal_(table.weight, std=0.3)
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, pairs):
        u, f = self.users(pairs[:, 0]), self.films(pairs[:, 1])
        return self.mean + u[:, 0] + f[:, 0] + (u[:, 1:] * f[:, 1:]).sum(1)


def ratings(seed, rows=12000, users=120, films=80):
    g = data.drawn(seed)
    pairs = torch.stack([torch.randint(users, (rows,), generator=g), torch.randint(films, (rows,), generator=g)], 1)
    u, f = 0.6 * torch.randn(users, 3, generator=g), 0.6 * torch.randn(films, 3, generator=g)
    score = 3.5 + u[pairs[:, 0], 0] + f[pairs[:, 1], 0] + (u[:, 1:][pairs[:, 0]] * f[:, 1:][pairs[:, 1]]).sum(1)
    return pairs, score + 0.5 * torch.randn(rows, generator=g)


@rating("sparse-factors")
def sparse(watch, seed):
    """Nothing but two sparse tables: in each step most rows have no gradient."""
    torch.manual_seed(seed)
    x, y = ratings(seed)
    model, criterion = Factors(120, 80, 3.5, sparse=True), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.03)
    w = watch(model, optimizer, loss=criterion)
    for inputs, scores in batches(x, y, size=64, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), scores).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@rating("factors-by-adagrad")
def adagrad(watch, seed):
    """Adagrad, whose steps shrink by themselves."""
    torch.manual_seed(seed)
    x, y = ratings(seed)
    model, criterion = Factors(120, 80, 3.5, sparse=False), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.15)
    w = watch(model, optimizer, loss=criterion)
    for inputs, scores in batches(x, y, size=64, epochs=3):
        criterion(model(inputs), scores).backward()
        optimizer.step()
        optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@rating("users-and-films-in-turn")
def in_turn(watch, seed):
    """One optimizer for users, one for films, each steps on every other batch."""
    torch.manual_seed(seed)
    x, y = ratings(seed)
    model, criterion = Factors(120, 80, 3.5, sparse=False), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    both = [torch.optim.Adam(table.parameters(), lr=0.05) for table in (model.users, model.films)]
    w = watch(model, both, loss=criterion)
    for step, (inputs, scores) in enumerate(batches(x, y, size=128, epochs=4)):
        for optimizer in both:
            optimizer.zero_grad()
        criterion(model(inputs), scores).backward()
        both[step % 2].step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


class Strand(nn.Module):
    def __init__(self, drop=0.0):
        super().__init__()
        self.table = nn.Embedding(4, 8)
        self.look, self.drop, self.head = nn.Conv1d(8, 32, 4), nn.Dropout(drop), nn.Linear(32, 6)

    def forward(self, x):
        return self.head(self.drop(self.look(self.table(x).transpose(1, 2)).relu().amax(2)))


def genes(seed, rows=3000, length=24):
    """Strands of four letters, [N, 24]; which of six words of four letters each holds, [N, 6], a few marks wrong."""
    g = data.drawn(seed)
    x = torch.randint(4, (rows, length), generator=g)
    words = torch.randint(4, (6, 4), generator=g)
    y = (torch.rand(rows, 6, generator=g) < 0.3).float()
    for row, word in y.nonzero().tolist():
        x[row, 4 * word : 4 * word + 4] = words[word]
    wrong = torch.rand(rows, 6, generator=g) < 0.05
    return x, torch.where(wrong, 1 - y, y)


@gene("several-labels-under-dropout")
def several_labels(watch, seed):
    """Six yes-or-no labels, dropout of one half, a rate that falls when the loss has stopped falling."""
    torch.manual_seed(seed)
    x, y = genes(seed)
    model, criterion = Strand(drop=0.5), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=1)
    for _ in range(7):
        model.train()
        for inputs, labels in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            schedule.step(criterion(model(x[:500]), y[:500]))
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@gene("rare-labels-weighted")
def rare_labels(watch, seed):
    """Positive marks count three times."""
    torch.manual_seed(seed)
    x, y = genes(seed)
    model, criterion = Strand(), nn.BCEWithLogitsLoss(pos_weight=torch.full((6,), 3.0))
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=50, epochs=6):
        optimizer.zero_grad(set_to_none=False)
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    odds = 3 * y.mean(0) / (3 * y.mean(0) + 1 - y.mean(0))
    return Outcome(first, loss_of(model, criterion, x, y), criterion(odds.logit().expand_as(y), y).item())


@gene("soft-marks")
def soft_marks(watch, seed):
    """Targets between 0 and 1: several judges who disagree."""
    torch.manual_seed(seed)
    x, y = genes(seed)
    soft = 0.15 + 0.7 * y
    model, criterion = Strand(), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, soft)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, marks in batches(x, soft, size=50, epochs=6):
        optimizer.zero_grad()
        criterion(model(inputs), marks).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, soft), binary_entropy(soft))


def clusters(seed, rows=2000, classes=12):
    g = data.drawn(seed)
    label = torch.randint(classes, (rows,), generator=g)
    centre = torch.randn(classes, 10, generator=g)
    return centre[label] + 0.7 * torch.randn(rows, 10, generator=g), label


@metric("triplets")
def triplets(watch, seed):
    """The triplet loss: of most triplets nothing is left to learn, so its gradient fades and is noisy."""
    torch.manual_seed(seed)
    x, y = clusters(seed)
    model, criterion = mlp(10, 48, 8), nn.TripletMarginLoss(margin=1.0)

    same, other = (y[:, None] == y).float(), (y[:, None] != y).float()

    def drawn_with(rows, generator=None):
        """The rows, one of the same class for each, and one of another."""
        near, far = (torch.multinomial(share[rows], 1, generator=generator)[:, 0] for share in (same, other))
        return x[rows], x[near], x[far]

    kept = drawn_with(torch.arange(1000), data.drawn(1))

    @torch.no_grad()
    def measured():
        return criterion(*(model(part) for part in kept)).item()

    first = measured()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for (rows,) in batches(torch.arange(2000), size=50, epochs=6):
        loss = criterion(*(model(part) for part in drawn_with(rows)))
        w.observe(loss=loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, measured(), 1.0)


@metric("alike-and-spread-out")
def alike(watch, seed):
    """Alignment and uniformity on the sphere: the loss is negative from the start and falls."""
    torch.manual_seed(seed)
    x, _ = clusters(seed)
    model = mlp(10, 48, 4)

    def loss_on(rows, noise):
        a, b = F.normalize(model(rows), dim=1), F.normalize(model(rows + 0.2 * noise), dim=1)
        together = (a - b).square().sum(1).mean()
        return together + torch.pdist(a).square().mul(-2).exp().mean().log()

    some = torch.randn(x.shape, generator=data.drawn(1))

    @torch.no_grad()
    def measured():
        return loss_on(x, some).item()

    first = measured()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for (rows,) in batches(x, size=100, epochs=12):
        loss = loss_on(rows, torch.randn_like(rows))
        w.observe(loss=loss, inputs=rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, measured(), 0.0)
