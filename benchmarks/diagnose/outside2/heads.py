"""The last activation, the loss, and the shapes that meet in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 sigmoid before cross-entropy",
    family="beats",
    causes="output-activation",
    symptoms="slow-convergence plateau silent",
)
def sigmoid_before_ce(watch: Watch, seed: int, mended: bool) -> float:
    """Four sigmoids, one for each kind of beat, go into CrossEntropyLoss: no class can have more than 0.48."""
    torch.manual_seed(seed)
    data = parts.beats()
    net = parts.Beat()
    model = net if mended else nn.Sequential(net, nn.Sigmoid())
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 softmax over one unit",
    family="circles",
    causes="output-activation",
    symptoms="loss-not-decreasing plateau no-op-step vanishing-gradient",
)
def softmax_over_one(watch: Watch, seed: int, mended: bool) -> float:
    """One output, softmax over it, BCELoss: the model says 1 whatever it sees."""
    torch.manual_seed(seed)
    data = parts.circles()
    model = nn.Sequential(parts.mlp(2, 32, 1), nn.Sigmoid() if mended else nn.Softmax(dim=1))
    criterion = nn.BCELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(5):
        for x, y in parts.loader(data.x, data.y.float()[:, None]):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv.float()[:, None])


class _StateForecast(nn.Module):
    """The state of a second LSTM with one unit is the forecast: it lies between -1 and 1, the load does not."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.first = nn.LSTM(1, 24, batch_first=True)
        self.second = nn.LSTM(24, 8 if linear else 1, batch_first=True)
        self.out = nn.Linear(8, 1) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(x)[0])[0][:, -1])


@faulty(
    "2 recurrent state as the forecast",
    family="demand",
    causes="output-range",
    symptoms="plateau silent slow-convergence",
)
def state_as_forecast(watch: Watch, seed: int, mended: bool) -> float:
    torch.manual_seed(seed)
    data = parts.demand()
    model = _StateForecast(mended)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        model.train()
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(data.xv), data.yv).item())
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 forecast clamped to percent",
    family="graphs",
    causes="output-range",
    symptoms="plateau silent slow-convergence loss-not-decreasing",
)
def hard_sigmoid_end(watch: Watch, seed: int, mended: bool) -> float:
    """A Hardsigmoid at the end, from a model of shares, while the target of this one is standardised."""
    torch.manual_seed(seed)
    a, x, y, n = parts.graphs()
    rows = torch.cat([x, (a @ x) / a.sum(-1, keepdim=True)], -1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.node, self.out = parts.mlp(8, 32, 32), nn.Linear(32, 1)

        def forward(self, h: Tensor) -> Tensor:
            h = self.out(self.node(h).relu().mean(1)).squeeze(1)
            return h if mended else F.hardsigmoid(h)

    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for _ in range(8):
        for xb, yb in parts.loader(rows[:n], y[:n]):
            out = model(xb)
            loss = F.l1_loss(out, yb)
            w.observe(loss=loss, outputs=out, targets=yb, inputs=xb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, F.l1_loss, rows[n:], y[n:])


@faulty(
    "2 nll_loss on logits",
    family="shapes",
    causes="loss-mismatch output-activation",
    symptoms="diverging exploding-gradient silent",
)
def nll_on_logits(watch: Watch, seed: int, mended: bool) -> float:
    """F.nll_loss without a log_softmax before it: the loss falls below zero and on."""
    torch.manual_seed(seed)
    data = parts.shapes()
    model = parts.ShapeNet()
    measure = F.cross_entropy if mended else F.nll_loss
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    for _ in range(3):
        for x, y in parts.loader(data.x, data.y):
            out = model(x)
            loss = measure(out, y)
            w.observe(loss=loss, outputs=out, targets=y, inputs=x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, F.cross_entropy, data.xv, data.yv)


@faulty(
    "2 poisson loss on standardised counts",
    family="counts",
    causes="loss-mismatch",
    symptoms="diverging exploding-gradient non-finite silent",
)
def poisson_on_standardised(watch: Watch, seed: int, mended: bool) -> float:
    """The script standardises every target; PoissonNLLLoss has no floor where they are negative."""
    torch.manual_seed(seed)
    data = parts.counts()
    mean, std = data.y.mean(), data.y.std()
    y = data.y if mended else (data.y - mean) / std
    model = parts.mlp(6, 48, 48, 1)
    criterion = nn.PoissonNLLLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for xb, yb in parts.loader(data.x, y):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
    w.close()
    with torch.no_grad():
        rate = model(data.xv).exp()
        rate = rate if mended else (rate * std + mean).clamp(min=1e-3)
    return min(float(parts.poisson(rate.log(), data.yv)), 1e6)


@faulty(
    "2 one channel against none",
    family="spectra",
    causes="shape-broadcast",
    symptoms="plateau loss-not-decreasing silent slow-convergence",
)
def channel_against_none(watch: Watch, seed: int, mended: bool) -> float:
    """A 1-d convolution gives [N, 1, L], the target is [N, L]: each spectrum is compared with those of the batch."""
    torch.manual_seed(seed)
    data = parts.spectra()
    body = nn.Sequential(nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 16, 9, padding=4), nn.ReLU())
    model = nn.Sequential(nn.Unflatten(1, (1, 48)), *body, nn.Conv1d(16, 1, 9, padding=4))
    if mended:
        model.append(nn.Flatten())
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    w.close()
    return parts.score(model, lambda out, y: F.mse_loss(out.reshape_as(y), y), data.xv, data.yv)
