"""Equations, bandits, experts and sums: losses and plateaus of other kinds."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.registry import Outcome, healthy

physics = partial(healthy, family="oscillator-pinn", part="measuring")
bandit = partial(healthy, family="bandit-policy", part="measuring")
experts = partial(healthy, family="pieces-experts", part="measuring")
sums = partial(healthy, family="modular-sums", part="measuring")


@physics("equation-as-loss")
def oscillator(watch, seed):
    """u' = -u + cos t from u(0) = 1: the loss needs the gradient of the output with respect to the input."""
    torch.manual_seed(seed)
    model = mlp(1, 32, 32, 1, act=nn.Tanh)

    def residue(time):
        time = time.requires_grad_()
        u = 1 + time * model(time)
        slope = torch.autograd.grad(u.sum(), time, create_graph=True)[0]
        return (slope + u - torch.cos(time)).square().mean()

    grid = torch.linspace(0, 3, 200)[:, None]
    first = residue(grid.clone()).item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        time = 3 * torch.rand(64, 1)
        optimizer.zero_grad()
        loss = residue(time)
        w.observe(loss=loss, inputs=time)
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    flat = (1 - torch.cos(grid)).square().mean().item()  # u = 1 throughout
    return Outcome(first, residue(grid.clone()).item(), flat)


@physics("slope-of-inputs-kept-small")
def gradient_penalty(watch, seed):
    """A regression with a penalty on the gradient with respect to inputs: backward runs twice."""
    torch.manual_seed(seed)
    x = 2 * torch.rand(2000, 2, generator=data.drawn(seed)) - 1
    y = torch.sin(3 * x[:, :1]) * x[:, 1:] + 0.3 * torch.randn(2000, 1)
    model = mlp(2, 48, 1, act=nn.Tanh)

    def loss_on(rows, targets):
        rows = rows.clone().requires_grad_()
        found = model(rows)
        slope = torch.autograd.grad(found.sum(), rows, create_graph=True)[0]
        return F.mse_loss(found, targets) + 0.003 * slope.square().sum(1).mean()

    first = loss_on(x, y).item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    for inputs, targets in batches(x, y, size=50, epochs=10):
        loss = loss_on(inputs, targets)
        w.observe(loss=loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_on(x, y).item(), variance(y))


def pulls(seed, rows=6000, arms=4):
    """States [N, 5] and the reward each arm would pay, [N, arms], with noise."""
    g = data.drawn(seed)
    state = torch.randn(rows, 5, generator=g)
    return state, torch.tanh(state @ torch.randn(5, arms, generator=g)) + 0.3 * torch.randn(rows, arms, generator=g)


@bandit("policy-gradient")
def policy_gradient(watch, seed):
    """The loss is minus advantage times log-probability: it has any sign, and no trend, while the reward rises."""
    torch.manual_seed(seed)
    state, reward = pulls(seed)
    model = mlp(5, 32, 4, act=nn.Tanh)

    @torch.no_grad()
    def missed():
        return float((reward.max(1).values - (model(state).softmax(1) * reward).sum(1)).mean())

    first = missed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer)
    usual = 0.0
    for rows, pay in batches(state, reward, size=50, epochs=3):
        choice = torch.distributions.Categorical(logits=model(rows))
        arm = choice.sample()
        got = pay.gather(1, arm[:, None])[:, 0]
        usual = 0.95 * usual + 0.05 * got.mean().item()
        loss = -((got - usual) * choice.log_prob(arm)).mean() - 0.01 * choice.entropy().mean()
        w.observe(loss=loss, inputs=rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    best = reward.mean(0).max()
    return Outcome(first, missed(), float(reward.max(1).values.mean() - best))


@bandit("expected-reward-upwards")
def upwards(watch, seed):
    """The mean reward under the policy, which rises: the optimizer maximises, on purpose."""
    torch.manual_seed(seed)
    state, reward = pulls(seed)
    model = mlp(5, 32, 4, act=nn.Tanh)

    def objective(found, pay):
        return (found.softmax(1) * pay).sum(1).mean()

    first = -loss_of(model, objective, state, reward)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, maximize=True)
    w = watch(model, optimizer)
    for rows, pay in batches(state, reward, size=50, epochs=3):
        found = model(rows)
        gain = objective(found, pay)
        w.observe(loss=gain, outputs=found, inputs=rows)
        optimizer.zero_grad()
        gain.backward()
        optimizer.step()
    w.close()
    return Outcome(first, -loss_of(model, objective, state, reward), -float(reward.mean(0).max()))


class Experts(nn.Module):
    """Four experts; a gate sends each row to one of them, or mixes them all."""

    def __init__(self, hard):
        super().__init__()
        self.gate, self.hard = nn.Linear(3, 4), hard
        self.experts = nn.ModuleList(mlp(3, 16, 1, act=nn.Tanh) for _ in range(4))

    def forward(self, x):
        share = self.gate(x).softmax(1)
        if self.hard:
            best = F.one_hot(share.argmax(1), 4)
            share = share * best
        return sum(share[:, k : k + 1] * expert(x) for k, expert in enumerate(self.experts))


def pieces(seed, rows=3000):
    """A function with a line of its own in each quadrant, and noise of 0.4."""
    g = data.drawn(seed)
    x = torch.randn(rows, 3, generator=g)
    slope = torch.randn(4, 3, generator=g)
    part = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return x, (slope[part] * x).sum(1, keepdim=True) + 0.4 * torch.randn(rows, 1, generator=g)


@experts("experts-mixed")
def mixed(watch, seed):
    """All experts answer, weighted by the gate."""
    torch.manual_seed(seed)
    x, y = pieces(seed)
    model, criterion = Experts(hard=False), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.08)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(30, 480))
    for inputs, targets in batches(x, y, size=50, epochs=8):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@experts("one-expert-a-row")
def one_expert(watch, seed):
    """Each row goes to one expert, with a loss that balances them: an expert may see few rows for a while."""
    torch.manual_seed(seed)
    x, y = pieces(seed)
    model = Experts(hard=True)

    def loss_on(found, targets):
        return F.mse_loss(found, targets)

    first = loss_of(model, loss_on, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.08)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(30, 480))
    for inputs, targets in batches(x, y, size=50, epochs=8):
        found = model(inputs)
        balance = model.gate(inputs).softmax(1).mean(0).square().sum()
        loss = loss_on(found, targets) + 0.1 * balance
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, loss_on, x, y), variance(y))


def modular(p=7):
    """All pairs of numbers below p, [p * p, 2], and their sums modulo p."""
    a, b = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    return torch.stack([a.flatten(), b.flatten()], 1), ((a + b) % p).flatten()


@sums("sums-modulo-seven")
def modular_sums(watch, seed):
    """Embeddings and a network in full batches: slow at first, then sudden, then no loss at all."""
    torch.manual_seed(seed)
    x, y = modular()
    model = nn.Sequential(nn.Embedding(7, 24), nn.Flatten(), nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 7))
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(400):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sums("four-bits-of-fourteen")
def parity(watch, seed):
    """The parity of four bits, a few labels wrong, new rows each time: nothing for long, then the floor."""
    torch.manual_seed(seed)

    def rows(count):
        x = (torch.rand(count, 14) < 0.5).float() * 2 - 1
        y = (x[:, :4].prod(1) > 0).long()
        return x, torch.where(torch.rand(count) < 0.05, 1 - y, y)

    some = rows(2000)
    model, criterion = mlp(14, 128, 2), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, *some)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(700):
        inputs, labels = rows(64)
        criterion(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    w.close()
    return Outcome(first, loss_of(model, criterion, *some), 0.6931)
