"""Batches, optimizers, regularisation, capacity, length and clipping."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 huber summed over the batch",
    family="graphs",
    causes="loss-sum lr-too-high",
    symptoms="loss-not-decreasing plateau diverging exploding-gradient loss-spike loss-oscillating",
)
def summed_huber(watch: Watch, seed: int, mended: bool) -> float:
    """reduction="sum" with 64 graphs a batch, at a rate that was right for the mean."""
    torch.manual_seed(seed)
    a, x, y, n = parts.graphs()
    rows = torch.cat([x, (a @ x) / a.sum(-1, keepdim=True)], -1)
    model = nn.Sequential(nn.Flatten(), parts.mlp(96, 64, 1))
    criterion = nn.SmoothL1Loss(reduction="mean" if mended else "sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(10):
        for xb, yb in parts.loader(rows[:n], y[:n, None], 64):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
    w.close()
    return parts.score(model, nn.SmoothL1Loss(), rows[n:], y[n:, None])


@faulty(
    "2 one customer a batch",
    family="churn",
    causes="batch-too-small",
    symptoms="loss-oscillating plateau slow-convergence",
)
def one_customer(watch: Watch, seed: int, mended: bool) -> float:
    """SGD on single rows for 600 steps; mended with batches of 32, as many steps."""
    torch.manual_seed(seed)
    data = parts.churn()
    model = parts.mlp(20, 64, 4)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = watch(model, optimizer, loss=criterion)
    for step in range(600):
        rows = torch.randint(0, len(data.x), (32 if mended else 1,))
        optimizer.zero_grad()
        criterion(model(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
        if step % 100 == 99:
            w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 all moons in one batch",
    family="moons",
    causes="batch-too-large lr-too-low undertrained optimizer-unsuited",
    symptoms="slow-convergence",
)
def all_moons(watch: Watch, seed: int, mended: bool) -> float:
    """batch_size=len(data) and 60 epochs are 60 steps; mended with batches of 128 over as many epochs."""
    torch.manual_seed(seed)
    data = parts.moons()
    model = parts.mlp(2, 32, 32, 2)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    train = parts.loader(data.x, data.y, 128 if mended else 2048)
    w = watch(model, optimizer, loss=criterion)
    for epoch in range(60):
        for x, y in train:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        if epoch % 10 == 9:
            w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 rprop on small batches",
    family="spectra",
    causes="optimizer-unsuited",
    symptoms="plateau slow-convergence loss-oscillating loss-not-decreasing diverging",
)
def rprop_on_batches(watch: Watch, seed: int, mended: bool) -> float:
    """Rprop reads signs of the gradient, which is for full batches; here it gets batches of 16."""
    torch.manual_seed(seed)
    data = parts.spectra()
    model = parts.mlp(48, 64, 8, 64, 48)
    criterion = nn.MSELoss()
    params = model.parameters()
    optimizer = torch.optim.Adam(params, lr=2e-3) if mended else torch.optim.Rprop(params, lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y, 16):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


class Variational(nn.Module):
    """A variational autoencoder; returns the reconstruction and the divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = parts.mlp(48, 48, 12), parts.mlp(6, 48, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp() if self.training else mean
        return self.decoder(z), -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()


@faulty(
    "2 divergence weighed against a mean over channels",
    family="spectra",
    causes="over-regularised",
    symptoms="plateau loss-not-decreasing slow-convergence",
)
def collapsed_posterior(watch: Watch, seed: int, mended: bool) -> float:
    """The error is a mean over 48 channels, the divergence a sum with weight 1: the code is given up for the prior."""
    torch.manual_seed(seed)
    data = parts.spectra()
    model = Variational()
    beta = 0.002 if mended else 1.0
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    for _ in range(6):
        for x, y in parts.loader(data.x, data.y):
            out, divergence = model(x)
            loss = F.mse_loss(out, y) + beta * divergence
            w.observe(loss=loss, outputs=out, targets=y, inputs=x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    model.eval()
    with torch.no_grad():
        return F.mse_loss(model(data.xv)[0], data.yv).item()


@faulty(
    "2 weight decay of a tenth in sgd",
    family="shapes",
    causes="over-regularised",
    symptoms="plateau slow-convergence loss-not-decreasing",
)
def decay_of_a_tenth(watch: Watch, seed: int, mended: bool) -> float:
    """SGD's weight_decay=0.2, where the paper's 0.2 was AdamW's; mended with 5e-4."""
    torch.manual_seed(seed)
    data = parts.shapes()
    model = parts.ShapeNet(8, norm=False)
    criterion = nn.CrossEntropyLoss()
    decay = 5e-4 if mended else 0.2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=decay)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)
