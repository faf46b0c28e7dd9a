"""Losses and inputs on the other files' data: masks, codes, adapters, one-hot columns."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import PerToken, Transformer, mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of, variance
from benchmarks.diagnose.healthy.measuring.embedded import genes
from benchmarks.diagnose.healthy.measuring.language import stretches
from benchmarks.diagnose.healthy.measuring.points import cloud
from benchmarks.diagnose.healthy.measuring.tabular import patients, wines
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, part="measuring")


@sound("targets-partly-unknown", family="diabetes-mlp")
def partly_unknown(watch, seed):
    """Two targets, a third of them NaN, taken out of the sum by torch.where; a few outliers under Huber's loss."""
    torch.manual_seed(seed)
    x, y = patients()
    y = data.standardised(torch.cat([y, x[:, 2:3] + 0.5 * torch.randn_like(y)], 1))
    y = torch.where(torch.rand_like(y) < 0.03, y + 15, y)
    y = y.masked_fill(torch.rand_like(y) < 0.33, float("nan"))
    model = nn.Linear(10, 2)

    def loss_on(found, targets):
        there = ~targets.isnan()
        each = F.huber_loss(found, torch.where(there, targets, 0.0), reduction="none")
        return (each * there).sum() / there.sum()

    first = loss_of(model, loss_on, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=32, epochs=15):
        found = model(inputs)
        loss = loss_on(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    medians = torch.stack([column.nanmedian() for column in y.T]).expand_as(y)
    return Outcome(first, loss_of(model, loss_on, x, y), float(loss_on(medians, y)))


@sound("hard-rows-count-more", family="wine-mlp")
def focal(watch, seed):
    """Focal loss over three classes: far below ln 3 from the start."""
    torch.manual_seed(seed)
    x, y = wines()
    model = nn.Linear(13, 3)

    def loss_on(found, labels):
        right = found.log_softmax(1).gather(1, labels[:, None])
        return -((1 - right.exp()).square() * right).mean()

    first = loss_of(model, loss_on, x, y)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    w = watch(model, optimizer)
    for inputs, labels in batches(x, y, size=16, epochs=25):
        found = model(inputs)
        loss = loss_on(found, labels)
        w.observe(loss=loss, outputs=found, targets=labels, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    base = loss_on((y.bincount() / len(y)).log().expand(len(y), 3), y)
    return Outcome(first, loss_of(model, loss_on, x, y), base.item())


@sound("codes-for-clouds", family="clouds-generative")
def codes(watch, seed):
    """A variational autoencoder on points: squared errors over a small variance, and a divergence."""
    torch.manual_seed(seed)
    points = cloud(seed)
    inside, outside = mlp(2, 48, 4), mlp(2, 48, 2)

    def loss_on(rows):
        mean, log_var = inside(rows).chunk(2, 1)
        out = outside(mean + torch.randn_like(mean) * (0.5 * log_var).exp())
        apart = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return ((out - rows).square().sum(1) / (2 * 0.2**2) + apart).mean(), out

    @torch.no_grad()
    def measured():
        torch.manual_seed(1)
        return loss_on(points)[0].item()

    first = measured()
    torch.manual_seed(seed)
    model = nn.ModuleDict({"inside": inside, "outside": outside})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for (rows,) in batches(points, size=100, epochs=20):
        optimizer.zero_grad()
        loss, out = loss_on(rows)
        w.observe(loss=loss, outputs=out, targets=rows, inputs=rows)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, measured(), 2 * variance(points) / (2 * 0.2**2))


@sound("narrow-adapters-on-text", family="docs-transformer")
def adapters(watch, seed):
    """A transformer of the text, frozen, learns the same text backwards through its head and narrow adapters."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    model, criterion = Transformer(count, count, 16, width=48, depth=1, look_back=True), PerToken()
    study = torch.optim.AdamW(model.parameters(), lr=0.01)
    for inputs, following in batches(x, y, size=64, epochs=2):
        study.zero_grad()
        criterion(model(inputs), following).backward()
        study.step()
    model.requires_grad_(False)
    block = model.blocks[0]
    narrow = nn.Sequential(nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 48))
    nn.init.zeros_(narrow[2].weight)
    block.ahead = Beside(block.ahead, narrow)
    model.head = nn.Linear(48, count)
    back, before = y.flip(1), x.flip(1)
    first = loss_of(model, criterion, back, before)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, following in batches(back, before, size=32, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), following).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, back, before), entropy(y))


class Beside(nn.Module):
    """Two modules added."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return self.one(x) + self.other(x)


@sound("letters-as-one-hot-columns", family="genes-textcnn")
def one_hot(watch, seed):
    """Zeros and ones as inputs, three in four of them zero; a spare head that nothing uses and nothing trains."""
    torch.manual_seed(seed)
    x, y = genes(seed)
    columns = F.one_hot(x, 4).float().transpose(1, 2)
    model = nn.Sequential(nn.Conv1d(4, 32, 4), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 6))
    model[-1].spare = nn.Linear(32, 2).requires_grad_(False)
    criterion = nn.MultiLabelSoftMarginLoss()
    first = loss_of(model, criterion, columns, y)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(columns, y, size=50, epochs=6):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, columns, y), binary_entropy(y))


@sound("shapes-through-a-bottleneck", family="shapes-masks")
def bottleneck(watch, seed):
    """Images in [0, 1] are both inputs and targets, a sigmoid ends the model: BCE ends far above zero."""
    torch.manual_seed(seed)
    x = data.shapes(seed, 800, noise=0.05)[0].flatten(1)
    model, criterion = nn.Sequential(mlp(144, 96, 16, 96, 144), nn.Sigmoid()), nn.BCELoss()
    first = loss_of(model, criterion, x, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for (rows,) in batches(x, size=50, epochs=20):
        optimizer.zero_grad()
        criterion(model(rows), rows).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, x), binary_entropy(x))
