"""Regression by losses of its own kind: expectiles, mixtures, correlations, scaled losses, times to an event."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import surefoot as sf
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.outside2.rows import generated, parted
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


class Expectile(nn.Module):
    """Squares that weigh nine times as much where the target is above."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        away = targets - outputs
        return (torch.where(away > 0, 0.9, 0.1) * away.square()).mean()


@healthy("2-expectile-leans-upward", family="2-friedman", part="outside2")
def expectile(watch: Watch, seed: int) -> Outcome:
    """Predictions sit above most targets, as they should; a criterion the user wrote."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("friedman2", seed, n_samples=3000, noise=200.0)
    model, criterion = mlp(4, 32, 32, 1), Expectile()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=40, epochs=6):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    grid = [criterion(torch.full_like(y2, g / 50), y2).item() for g in range(-100, 150)]
    return Outcome(first, loss_of(model, criterion, x2, y2), min(grid))


@healthy("2-loss-a-hundredfold", family="2-friedman", part="outside2")
def hundredfold(watch: Watch, seed: int) -> Outcome:
    """The loss counts in percent, a hundred times as large, and SGD's rate is a hundredth."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("friedman1", seed, n_samples=3000, n_features=6, noise=3.0)
    model, inner = mlp(6, 32, 32, 1), nn.MSELoss()

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return 100 * inner(outputs, targets)

    optimizer = torch.optim.SGD(model.parameters(), lr=5e-4, momentum=0.9)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=32, epochs=9):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), 100 * variance(y2))


@healthy("2-mixture-of-three", family="2-densities", part="outside2")
def mixture(watch: Watch, seed: int) -> Outcome:
    """A mixture density net on a curve with several answers: nine outputs to one target, and a loss below zero."""
    torch.manual_seed(seed)
    hidden = torch.rand(4000, 1) * 2 - 1
    x = hidden + 0.6 * torch.sin(2 * math.pi * hidden) + 0.03 * torch.randn(4000, 1)
    x, y, x2, y2 = parted(x, 0.5 * hidden, seed)
    model = mlp(1, 32, 32, 9, act=nn.Tanh)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        share, mean, spread = outputs.chunk(3, 1)
        each = torch.distributions.Normal(mean, spread.clamp(-6, 3).exp()).log_prob(targets)
        return -(share.log_softmax(1) + each).logsumexp(1).mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(30, 560))
    for inputs, targets in batches(x, y, size=100, epochs=20):
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        w.observe(loss=loss, outputs=outputs, targets=targets, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), 0.5 + math.log(float(y2.std()) * math.sqrt(2 * math.pi)))


@healthy("2-correlation-to-be-raised", family="2-densities", part="outside2")
def correlation(watch: Watch, seed: int) -> Outcome:
    """The objective is a batch's correlation, and goes up; where the outputs lie, and how wide, is free."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("regression", seed, n_samples=3000, n_features=20, n_informative=8, noise=80.0)
    model = mlp(20, 24, 1, act=nn.Tanh)

    def agreement(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.cosine_similarity(outputs - outputs.mean(), targets - targets.mean(), dim=0).mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, maximize=True)
    first = loss_of(model, agreement, x2, y2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=100, epochs=12):
        outputs = model(inputs)
        objective = agreement(outputs, targets)
        w.observe(loss=objective, outputs=outputs, targets=targets)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    w.close()
    return Outcome(1 - first, 1 - loss_of(model, agreement, x2, y2), 1.0)


@healthy("2-who-lives-longer", family="2-positive", part="outside2")
def survival(watch: Watch, seed: int) -> Outcome:
    """Cox's partial likelihood of a batch, with a third of the rows censored: rows are compared with each other."""
    torch.manual_seed(seed)
    x = torch.randn(3000, 8)
    risk = 1.2 * x[:, 0] - 0.8 * x[:, 1] + 0.6 * x[:, 2].abs()
    time = torch.empty(3000).exponential_() * (-risk).exp()
    limit = torch.empty(3000).exponential_() * 2
    x, y, x2, y2 = parted(x, torch.stack([time.minimum(limit), (time <= limit).float()], 1), seed)
    model = nn.Sequential(mlp(8, 24, 1), nn.Flatten(0))

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        order = targets[:, 0].argsort(descending=True)
        score, event = outputs[order], targets[order, 1]
        return -((score - score.logcumsumexp(0)) * event).sum() / event.sum()

    optimizer = sf.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05, clip_norm=2.0)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=128, epochs=12):
        scores = model(inputs)
        loss = criterion(scores, targets)
        w.observe(loss=loss, outputs=scores, targets=targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), criterion(torch.zeros(len(y2)), y2).item())
