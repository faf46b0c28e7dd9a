"""Waves in a recurrent network; the text of docstrings in another; brackets in a transformer."""

from functools import partial

import torch
from torch import nn

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import PerToken, Recurrent, Transformer
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.registry import Outcome, healthy

wave = partial(healthy, family="waves-gru", part="building")
letters = partial(healthy, family="docs-gru", part="building")
bracket = partial(healthy, family="brackets-transformer", part="building")


def parted(seed, rows=1000, noise=0.4):
    """Windows of 24 steps, shuffled, [N, 24, 1], and the step after each, [N, 1]."""
    found = data.waves(seed, rows, 25, noise)
    return found[:, :24, None], found[:, 24:]


@wave("recurrent-with-hard-clip")
def hard_clip(watch, seed):
    """The norm is clipped to 0.5 where it is several times that at first."""
    torch.manual_seed(seed)
    x, y = parted(seed)
    model, criterion = Recurrent("GRU", 1, 24, 1, tokens=False, each=False), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@wave("quantile-loss")
def quantile(watch, seed):
    """The upper decile of the next step: most residuals lie on one side."""
    torch.manual_seed(seed)
    x, y = parted(seed)
    model = Recurrent("GRU", 1, 24, 1, tokens=False, each=False)

    def pinball(found, targets):
        over = targets - found
        return torch.maximum(0.9 * over, -0.1 * over).mean()

    first = loss_of(model, pinball, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        found = model(inputs)
        loss = pinball(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, pinball, x, y), pinball(y.quantile(0.9).expand_as(y), y).item())


@wave("gradients-accumulated")
def accumulated(watch, seed):
    """Four backward passes to a step, the loss divided by four."""
    torch.manual_seed(seed)
    x, y = parted(seed)
    model, criterion = Recurrent("GRU", 1, 24, 1, tokens=False, each=False), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for count, (inputs, targets) in enumerate(batches(x, y, size=25, epochs=6), 1):
        (criterion(model(inputs), targets) / 4).backward()
        if count % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


def stretches(length=20):
    codes, count = data.text()
    rows = data.windows(codes, length)[:1000]
    return rows[:, :-1], rows[:, 1:], count


@letters("letters-in-a-gru")
def letters_gru(watch, seed):
    """Characters of text; the loss falls fast to the letters' frequencies and slowly from there; clipped to 1."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    model, criterion = Recurrent("GRU", count, 64, count), PerToken()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, following in batches(x, y, size=32, epochs=4):
        optimizer.zero_grad()
        criterion(model(inputs), following).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@letters("two-optimizers")
def two_optimizers(watch, seed):
    """Embeddings by Adagrad, all else by AdamW; dropout on the states."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    model, criterion = Recurrent("GRU", count, 48, count), PerToken()
    model.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(48, count))
    first = loss_of(model, criterion, x, y)
    table = torch.optim.Adagrad(model.inside.parameters(), lr=0.1)
    rest = torch.optim.AdamW([p for n, p in model.named_parameters() if not n.startswith("inside")], lr=0.01)
    w = watch(model, [table, rest], loss=criterion)
    for inputs, following in batches(x, y, size=32, epochs=4):
        for optimizer in (table, rest):
            optimizer.zero_grad()
        criterion(model(inputs), following).backward()
        for optimizer in (table, rest):
            optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@letters("padded-text")
def padded(watch, seed):
    """A third of the positions is padding, labelled -100."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    length = torch.randint(7, 21, (len(x), 1))
    y = y.masked_fill(torch.arange(20) >= length, -100)
    model, criterion = Recurrent("GRU", count, 48, count), PerToken(ignore_index=-100)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, following in batches(x, y, size=32, epochs=4):
        optimizer.zero_grad()
        criterion(model(inputs), following).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y[y >= 0]))


def nested(seed, rows=1500, length=12):
    """Random brackets, [N, L] in 0..3, and how deep each stands, 0..4, [N, L]."""
    g = data.drawn(seed)
    token = torch.randint(4, (rows, length), generator=g)
    depth, depths = torch.zeros(rows, dtype=torch.long), []
    for place in range(length):
        depth = (depth + torch.where(token[:, place] < 2, 1, -1)).clamp(0, 4)
        depths.append(depth)
    return token, torch.stack(depths, 1)


@bracket("tagging-with-causal-mask")
def causal_mask(watch, seed):
    """Scores of -inf where attention may not look; warm-up; weight decay of 0.1 on matrices only."""
    torch.manual_seed(seed)
    x, y = nested(seed)
    y = torch.where(torch.rand(y.shape) < 0.1, torch.randint(5, y.shape), y)
    model, criterion = Transformer(4, 5, 12, look_back=True, depth=1), PerToken()
    first = loss_of(model, criterion, x, y)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}], lr=0.015
    )
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(30, 210))
    for inputs, tags in batches(x, y, size=50, epochs=7):
        optimizer.zero_grad()
        criterion(model(inputs), tags).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@bracket("muon")
def muon(watch, seed):
    """Muon on the hidden matrices: updates of one norm, whatever the gradient's."""
    torch.manual_seed(seed)
    x, y = nested(seed)
    y = torch.where(torch.rand(y.shape) < 0.15, torch.randint(5, y.shape), y)
    model, criterion = Transformer(4, 5, 12, look_back=True, depth=1), PerToken()
    first = loss_of(model, criterion, x, y)
    optimizer = sf.optim.create("muon", model, lr=0.1)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(10, 210))
    for inputs, tags in batches(x, y, size=50, epochs=7):
        optimizer.zero_grad()
        criterion(model(inputs), tags).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@bracket("adapters-of-low-rank")
def low_rank(watch, seed):
    """A trained transformer, frozen, learns another task through adapters whose second matrix starts at zero."""
    torch.manual_seed(seed)
    x, y = nested(seed)
    model, criterion = Transformer(4, 5, 12, look_back=True, depth=1), PerToken()
    study = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for inputs, tags in batches(x, y, size=50, epochs=4):
        study.zero_grad()
        criterion(model(inputs), tags).backward()
        study.step()
    model.requires_grad_(False)
    for block in model.blocks:
        block.qkv, block.ahead[0] = Adapted(block.qkv), Adapted(block.ahead[0])
    model.head = nn.Linear(32, 5)
    mirrored = 4 - y
    mirrored = torch.where(torch.rand(y.shape) < 0.1, torch.randint(5, y.shape), mirrored)
    first = loss_of(model, criterion, x, mirrored)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, tags in batches(x, mirrored, size=50, epochs=5):
        optimizer.zero_grad()
        criterion(model(inputs), tags).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, mirrored), entropy(mirrored))


class Adapted(nn.Module):
    """A linear layer plus a product of two narrow matrices."""

    def __init__(self, inner, rank=4):
        super().__init__()
        self.inner = inner
        self.down, self.up = (
            nn.Linear(inner.in_features, rank, bias=False),
            nn.Linear(rank, inner.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.inner(x) + self.up(self.down(x))
