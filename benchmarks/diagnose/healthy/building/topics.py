"""Bags of words with several topics at once, embeddings, multi-label; and heads beside heads."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, loss_of
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="topics-bag", part="building")


def documents(seed, rows=5000, words=400, topics=8):
    """Twenty words a document [N, 20], most from its topics; its topics [N, 8], one mark in 25 wrong."""
    g = data.drawn(seed)
    y = (torch.rand(rows, topics, generator=g) < 0.3).float()
    chosen = torch.multinomial(y + 1e-3, 20, replacement=True, generator=g)
    own = chosen * (words // topics) + torch.randint(words // topics, (rows, 20), generator=g)
    other = torch.randint(words, (rows, 20), generator=g)
    wrong = torch.rand(rows, topics, generator=g) < 0.04
    x = torch.where(torch.rand(rows, 20, generator=g) < 0.75, own, other)
    return x, torch.where(wrong, 1 - y, y)


class Bag(nn.Module):
    def __init__(self, sparse=False, out=8):
        super().__init__()
        self.table = nn.EmbeddingBag(400, 32, sparse=sparse)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, out))

    def forward(self, x):
        return self.head(self.table(x))


@sound("sparse-embeddings")
def sparse(watch, seed):
    """Sparse gradients for SparseAdam, dense ones for Adam: most rows of the table rest in each step."""
    torch.manual_seed(seed)
    x, y = documents(seed)
    model, criterion = Bag(sparse=True), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    table = torch.optim.SparseAdam(list(model.table.parameters()), lr=0.05)
    rest = torch.optim.Adam(model.head.parameters(), lr=0.01)
    w = watch(model, [table, rest], loss=criterion)
    for inputs, labels in batches(x, y, size=32, epochs=3):
        table.zero_grad()
        rest.zero_grad()
        criterion(model(inputs), labels).backward()
        table.step()
        rest.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("cyclic-rate")
def cyclic(watch, seed):
    """A triangular rate, up and down eight times."""
    torch.manual_seed(seed)
    x, y = documents(seed)
    model, criterion = Bag(), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    high = optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, high / 10, high, step_size_up=30, cycle_momentum=False)
    for inputs, labels in batches(x, y, size=32, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("one-hot-inputs")
def one_hot(watch, seed):
    """Counts of 400 words as inputs: nineteen in twenty are zero."""
    torch.manual_seed(seed)
    tokens, y = documents(seed)
    x = F.one_hot(tokens, 400).sum(1).float()
    model, criterion = nn.Linear(400, 8), nn.MultiLabelSoftMarginLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.3)
    for _ in range(9):
        for inputs, labels in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("two-tasks-two-losses")
def two_tasks(watch, seed):
    """Topics, and how many there are: two criteria, one of them weighted down, one backward pass."""
    torch.manual_seed(seed)
    x, y = documents(seed)
    number = y.sum(1, keepdim=True)
    model = Bag(out=9)

    def loss_on(found, targets):
        labels, count = targets[:, :8], targets[:, 8:]
        return F.binary_cross_entropy_with_logits(found[:, :8], labels) + 0.05 * F.mse_loss(found[:, 8:], count)

    both = torch.cat([y, number], 1)
    first = loss_of(model, loss_on, x, both)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, both, size=32, epochs=3):
        found = model(inputs)
        loss = loss_on(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, loss_on, x, both), binary_entropy(y) + 0.05 * float(number.var()))


@sound("unused-head")
def unused_head(watch, seed):
    """A second head, kept for later: no gradient reaches it, and it is frozen and not in the optimizer."""
    torch.manual_seed(seed)
    x, y = documents(seed)
    model, criterion = Bag(), nn.BCEWithLogitsLoss()
    model.later = mlp(32, 16, 3).requires_grad_(False)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=32, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("head-used-from-half-way")
def late_head(watch, seed):
    """The auxiliary head gets its first gradient half-way through: until then it has none."""
    torch.manual_seed(seed)
    x, y = documents(seed)
    model, criterion = Bag(), nn.BCEWithLogitsLoss()
    model.number = nn.Linear(32, 1)
    number = y.sum(1, keepdim=True)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, labels, count) in enumerate(batches(x, y, number, size=32, epochs=3)):
        loss = criterion(model(inputs), labels)
        if step > 230:
            loss = loss + 0.02 * F.mse_loss(model.number(model.table(inputs)), count)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))
