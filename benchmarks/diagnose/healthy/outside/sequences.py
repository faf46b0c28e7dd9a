"""Tokens and series: padding, masks, order by length, letters without marks of time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import Attention, PerToken, Recurrent, Transformer
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.data import drawn, windows
from benchmarks.diagnose.healthy.outside.made import flipped, source, sums
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-letters-by-lstm", family="o-letters", part="outside")
def letters(watch: Watch, seed: int) -> Outcome:
    """The next letter of Python's own source: much is learnt in the first twenty steps, then little by little."""
    torch.manual_seed(seed)
    codes, kinds = source()
    rows = windows(codes, 24)
    rows = rows[torch.randperm(len(rows), generator=drawn(0))]
    x, y = rows[:, :-1], rows[:, 1:]
    xv, yv, x, y = x[-500:], y[-500:], x[:-500], y[:-500]
    model, criterion = Recurrent("LSTM", kinds, 64, kinds), PerToken()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.01)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(10, 160))
    for step, (inputs, targets) in enumerate(batches(x, y, size=32)):
        if step == 160:
            break
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-tied-embedding-chain", family="o-letters", part="outside")
def chain(watch: Watch, seed: int) -> Outcome:
    """Words of a random chain; head and embedding share their weight, and no model can get below 1.75 nats."""
    torch.manual_seed(seed)
    g, length = drawn(seed), 12
    table = (2.0 * torch.randn(20, 20, generator=g)).softmax(1)
    words = [torch.randint(20, (32 * 250 + 600,), generator=g)]
    for _ in range(length):
        words.append(torch.multinomial(table[words[-1]], 1, generator=g)[:, 0])
    rows = torch.stack(words, 1)
    x, y = rows[600:, :-1], rows[600:, 1:]
    xv, yv = rows[:600, :-1], rows[:600, 1:]
    model, criterion = Transformer(20, 20, length, width=32, depth=1, look_back=True, tied=True), PerToken()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(25, 250))
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


def padded(seed: int, rows: int, kinds: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of 1 to `kinds` up to a random length, then 0 [N, 14]; how many 1s and 2s so far, -100 at padding."""
    g = drawn(seed)
    x = torch.randint(1, kinds + 1, (rows, 14), generator=g)
    length = torch.randint(3, 15, (rows,), generator=g)
    gone = torch.arange(14) >= length[:, None]
    x[gone] = 0
    y = ((x == 1) | (x == 2)).cumsum(1).clamp(max=3)
    y = flipped(y, 0.1, seed, 4)
    y[gone] = -100
    return x, y, length


@healthy("o-padding-ignored", family="o-padded-tokens", part="outside")
def padding(watch: Watch, seed: int) -> Outcome:
    """Two fifths of all positions are padding, and their labels are -100."""
    torch.manual_seed(seed)
    x, y, _ = padded(seed, 32 * 180 + 500)
    xv, yv, x, y = x[:500], y[:500], x[500:], y[500:]
    model, criterion = Recurrent("GRU", 6, 32, 4), PerToken(ignore_index=-100)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv[yv >= 0]))


@healthy("o-short-ones-first", family="o-padded-tokens", part="outside")
def short_first(watch: Watch, seed: int) -> Outcome:
    """A curriculum: batches are cut from rows of like length, and the short ones tend to come early."""
    torch.manual_seed(seed)
    x, y, length = padded(seed, 32 * 220 + 500)
    xv, yv, x, y, length = x[:500], y[:500], x[500:], y[500:], length[500:]
    rows = torch.argsort(length + 14 * torch.rand(len(x)))  # early batches are of short rows, with many exceptions
    groups = [part[torch.argsort(length[part])].split(32) for part in rows.split(32 * 10)]
    model, criterion = Recurrent("LSTM", 6, 32, 4), PerToken(ignore_index=-100)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for group in groups:
        for place in torch.randperm(len(group)).tolist():
            inputs, targets = x[group[place]], y[group[place]]
            longest = int(length[group[place]].max())
            optimizer.zero_grad()
            criterion(model(inputs[:, :longest]), targets[:, :longest]).backward()
            optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv[yv >= 0]))


class Counter(nn.Module):
    """Attention in which no position looks at padding (-inf), mean over the rest, one answer per row."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.block, self.head = nn.Embedding(6, 24, padding_idx=0), Attention(24), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        gone = x == 0
        mask = torch.zeros(gone.shape).masked_fill(gone, -torch.inf)[:, None, None, :]
        h = self.block(self.token(x), mask).masked_fill(gone[..., None], 0)
        return self.head(h.sum(1) / (~gone).sum(1, keepdim=True))[:, 0]


@healthy("o-masks-of-infinity", family="o-padded-tokens", part="outside")
def infinity(watch: Watch, seed: int) -> Outcome:
    """Minus infinity is in the attention scores of every pass; outputs and targets are [N]."""
    torch.manual_seed(seed)
    x, _, length = padded(seed, 32 * 220 + 800)
    share = (x == 3).sum(1) / length
    y = 3 * share - 2 * ((x == 4).any(1) & (x == 5).any(1)) + 0.4 * torch.randn(len(x), generator=drawn(seed + 4))
    xv, yv, x, y = x[:800], y[:800], x[800:], y[800:]
    model, criterion = Counter(), nn.SmoothL1Loss()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 220)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), criterion(yv.mean().expand_as(yv), yv).item())


@healthy("o-post-norm", family="o-token-transformer", part="outside")
def post_norm(watch: Watch, seed: int) -> Outcome:
    """PyTorch's own encoder with the norm after the sum, dropout 0.05, warm-up, and a mask of what comes later."""
    torch.manual_seed(seed)
    x, y = sums(seed, 32 * 280 + 512, 10, 5, noise=0.2)
    xv, yv, x, y = x[:512], y[:512], x[512:], y[512:]

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(5, 32), nn.Embedding(10, 32)
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.05, batch_first=True, norm_first=False)
            self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            later = torch.ones(10, 10, dtype=torch.bool).triu(1)
            return self.head(self.layers(self.token(x) + self.place(torch.arange(10)), mask=later))

    model, criterion = Encoder(), PerToken()
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98))
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(40, 280))
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-plain-rnn-orthogonal", family="o-recurrent-series", part="outside")
def plain_rnn(watch: Watch, seed: int) -> Outcome:
    """A tanh RNN that starts orthogonal remembers a sum over twelve steps; single steps are clipped."""
    torch.manual_seed(seed)
    g = drawn(seed)
    x = torch.randn(32 * 250 + 800, 12, 2, generator=g)
    y = (x[..., :1] * (x[..., 1:] > 0)).sum(1) / 2.5 + 0.4 * torch.randn(len(x), 1, generator=g)
    xv, yv, x, y = x[:800], y[:800], x[800:], y[800:]
    model, criterion = Recurrent("RNN", 2, 32, 1, tokens=False, each=False), nn.MSELoss()
    nn.init.orthogonal_(model.cell.weight_hh_l0)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 6.0)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), variance(yv))


@healthy("o-frames-without-times", family="o-frames", part="outside")
def frames(watch: Watch, seed: int) -> Outcome:
    """CTC: three symbols in twelve frames, nobody says where; the loss rests on the blank before it falls."""
    torch.manual_seed(seed)
    g = drawn(seed)
    look = torch.randn(5, 8, generator=g)
    y = torch.randint(1, 5, (32 * 200 + 400, 3), generator=g)
    start = torch.randint(0, 3, (len(y), 3, 1), generator=g) + 4 * torch.arange(3)[:, None]
    x = 0.9 * torch.randn(len(y), 12, 8, generator=g)
    for late in range(2):
        x.scatter_add_(1, (start + late).expand(-1, -1, 8), look[y])
    net = nn.Sequential(nn.Conv1d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 5, 3, padding=1))

    def ctc(outputs: Tensor, targets: Tensor) -> Tensor:
        rows = len(targets)
        scores = outputs.permute(2, 0, 1).log_softmax(2)
        lengths = torch.full((rows,), 12), torch.full((rows,), 3)
        return F.ctc_loss(scores, targets, *lengths, reduction="none").mean() / 3

    x = x.transpose(1, 2).contiguous()
    xv, yv, x, y = x[:400], y[:400], x[400:], y[400:]
    first = loss_of(net, ctc, xv, yv)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    w = watch(net, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for inputs, targets in batches(x, y, size=32):
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = ctc(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    shares = (
        torch.tensor([b, *[(1 - b) / 4] * 4]).log()[None, :, None].expand(400, 5, 12) for b in (0.5, 0.6, 0.7, 0.8)
    )
    return Outcome(first, loss_of(net, ctc, xv, yv), min(ctc(share, yv).item() for share in shares))
