"""Text in a transformer; sequences turned round by an encoder and a decoder; rhythms in an LSTM."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import PerToken, Recurrent, Transformer
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.registry import Outcome, healthy

text = partial(healthy, family="docs-transformer", part="measuring")
turned = partial(healthy, family="turned-seq2seq", part="measuring")
rhythm = partial(healthy, family="rhythms-lstm", part="measuring")


def stretches(length=16):
    codes, count = data.text()
    rows = data.windows(codes, length)[:1600]
    return rows[:, :-1], rows[:, 1:], count


@text("tied-embeddings")
def tied(watch, seed):
    """One matrix is both embedding and head; weight decay of 0.1; clip; warm-up and cosine."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    model, criterion = Transformer(count, count, 16, width=48, depth=1, look_back=True, tied=True), PerToken()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(15, 150))
    for inputs, following in batches(x, y, size=32, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), following).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@text("smoothed-and-padded")
def smoothed(watch, seed):
    """Label smoothing, padding that does not count, dropout; validation on other text."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    y = y.masked_fill(torch.arange(16) >= torch.randint(6, 17, (len(y), 1)), -100)
    vx, vy, x, y = x[::8], y[::8], x[1::2], y[1::2]
    criterion = PerToken(label_smoothing=0.1, ignore_index=-100)
    model = Transformer(count, count, 16, width=48, depth=1, look_back=True, drop=0.2)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(10, 125))
    for _ in range(5):
        model.train()
        for inputs, following in batches(x, y, size=32):
            optimizer.zero_grad()
            criterion(model(inputs), following).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            w.validated(loss=criterion(model(vx), vy).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y[y >= 0]))


@text("functional-loss")
def functional(watch, seed):
    """The loss is a plain function on reshaped outputs; Muon with AdamW for the tables."""
    torch.manual_seed(seed)
    x, y, count = stretches()
    model = Transformer(count, count, 16, width=48, depth=1, look_back=True)

    def loss_on(found, following):
        return F.cross_entropy(found.reshape(-1, count), following.reshape(-1))

    first = loss_of(model, loss_on, x, y)
    optimizer = sf.optim.create("muon", model, lr=0.03)
    w = watch(model, optimizer)
    for inputs, following in batches(x, y, size=32, epochs=3):
        found = model(inputs)
        loss = loss_on(found, following)
        w.observe(loss=loss, outputs=found, targets=following, inputs=inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, loss_on, x, y), entropy(y))


class Turner(nn.Module):
    """A GRU reads, another writes from its last state; it is given what it should have written so far."""

    def __init__(self, tokens=8, width=48):
        super().__init__()
        self.table = nn.Embedding(tokens + 1, width)
        self.reads, self.writes = nn.GRU(width, width, batch_first=True), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, tokens)

    def forward(self, x):
        source, so_far = x.chunk(2, 1)
        _, state = self.reads(self.table(source))
        return self.head(self.writes(self.table(so_far), state)[0])


def turned_rows(rows=1500, length=5):
    """A sequence and its reverse, shifted by one behind a start token, [N, 2 L]; the reverse, [N, L]."""
    source = torch.randint(6, (rows, length))
    back = source.flip(1)
    return torch.cat([source, torch.full((rows, 1), 8), back[:, :-1]], 1), back


@turned("teacher-forcing")
def teacher_forcing(watch, seed):
    """The decoder sees the true past; the loss goes down in steps, one position after the other."""
    torch.manual_seed(seed)
    x, y = turned_rows()
    wrong = torch.rand(y.shape) < 0.1
    y = torch.where(wrong, torch.randint(6, y.shape), y)
    model, criterion = Turner(), PerToken()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, answers in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), answers).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@turned("reader-and-writer-with-two-rates")
def two_rates(watch, seed):
    """Three groups with rates from one to four, the weights of the head decayed."""
    torch.manual_seed(seed)
    x, y = turned_rows()
    y = torch.where(torch.rand(y.shape) < 0.2, torch.randint(6, y.shape), y)
    model, criterion = Turner(), PerToken()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(
        [
            {"params": model.table.parameters(), "lr": 0.02},
            {"params": [*model.reads.parameters(), *model.writes.parameters()], "lr": 0.01},
            {"params": model.head.parameters(), "lr": 5e-3, "weight_decay": 0.1},
        ]
    )
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 240)
    for inputs, answers in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), answers).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


def rhythms(seed, rows=1000):
    """Noisy pulses with a period of 3, 4 or 5 steps, [N, 20, 1], and which, [N]."""
    g = data.drawn(seed)
    label = torch.randint(3, (rows,), generator=g)
    phase = torch.randint(60, (rows, 1), generator=g)
    beat = ((torch.arange(20) + phase) % (label[:, None] + 3) == 0).float()
    return (beat - 0.25 + 0.25 * torch.randn(rows, 20, generator=g))[..., None], label


@rhythm("plateau-before-the-fall")
def plateau(watch, seed):
    """An LSTM finds nothing for a while, then all at once."""
    torch.manual_seed(seed)
    x, y = rhythms(seed)
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(3, y.shape), y)
    model, criterion = Recurrent("LSTM", 1, 24, 3, tokens=False, each=False), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=50, epochs=12):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@rhythm("lstm-clipped-in-most-steps")
def clipped(watch, seed):
    """A clip at 0.25 that is active in most steps, with a rate that fits it."""
    torch.manual_seed(seed)
    x, y = rhythms(seed)
    y = torch.where(torch.rand(len(y)) < 0.15, torch.randint(3, y.shape), y)
    model, criterion = Recurrent("LSTM", 1, 24, 3, tokens=False, each=False), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(12):
        for inputs, labels in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@rhythm("series-in-large-units")
def large_units(watch, seed):
    """The next value of a series of deviation 30 around 200, which the model standardises itself."""
    torch.manual_seed(seed)
    series = 200 + 30 * data.waves(seed, 1000, 17, noise=0.4)
    x, y = series[:, :16, None], series[:, 16:]

    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Recurrent("LSTM", 1, 24, 1, tokens=False, each=False)

        def forward(self, x):
            return 200 + 30 * self.inner((x - 200) / 30)

    model = Standardised()

    def loss_on(found, targets):
        return ((found - targets) / 30).square().mean()

    first = loss_of(model, loss_on, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=50, epochs=10):
        found = model(inputs)
        loss = loss_on(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, loss_on, x, y), variance(y) / 900)
