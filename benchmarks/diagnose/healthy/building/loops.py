"""Rewards, equations and units: losses that are not what they usually are."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import Recurrent, mlp
from benchmarks.diagnose.healthy.common import batches, loss_of, variance
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, part="building")


@sound("rewarded-guesses", family="digits-policy")
def rewarded(watch, seed):
    """Guess a digit, be told only whether it was right: a policy gradient, whose loss is noise around zero."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    model = mlp(64, 64, 10)

    def missed(found, labels):
        return 1 - found.softmax(1).gather(1, labels[:, None]).mean()

    first = loss_of(model, missed, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    usual = 0.1
    for inputs, labels in batches(x, y, size=64, epochs=25):
        guess = torch.distributions.Categorical(logits=model(inputs))
        digit = guess.sample()
        reward = (digit == labels).float()
        loss = -((reward - usual) * guess.log_prob(digit)).mean()
        usual = 0.9 * usual + 0.1 * reward.mean().item()
        w.observe(loss=loss, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, missed, x, y), 0.9)


@sound("logistic-growth-from-its-equation", family="growth-pinn")
def growth(watch, seed):
    """u' = u (1 - u) from u(0) = 0.1, by the residue of the equation; there are no targets."""
    torch.manual_seed(seed)
    model = mlp(1, 32, 1, act=nn.Tanh)
    grid = torch.linspace(0, 4, 128)[:, None]

    def residue():
        time = grid.clone().requires_grad_()
        u = 0.1 + time * model(time / 2 - 1)
        slope = torch.autograd.grad(u.sum(), time, create_graph=True)[0]
        return (slope - u * (1 - u)).square().mean()

    first = residue().item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        loss = residue()
        w.observe(loss=loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, residue().item(), 0.09**2)  # u = 0.1 throughout


@sound("prices-in-thousands", family="teacher-mlp")
def prices(watch, seed):
    """Targets of 200 +- 50: the last layer's bias starts at their mean, a fixed factor follows it."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 6, noise=0.3)
    y = 200 + 50 * y

    class Priced(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp(6, 32, 1, act=nn.Tanh)
            nn.init.constant_(self.inner[-1].bias, 4.0)

        def forward(self, x):
            return 50 * self.inner(x)

    model, criterion = Priced(), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64, epochs=10):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("steep-start-clipped-to-one", family="teacher-mlp")
def steep_start(watch, seed):
    """Raw gradient norms of 3 to 10 in the first steps, clipped to 1; later the clip rests."""
    torch.manual_seed(seed)
    x, y = data.teacher(seed, 3000, 6, noise=0.4)
    model, criterion = mlp(6, 48, 48, 1), nn.MSELoss()
    with torch.no_grad():
        model[-1].weight.mul_(6)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64, epochs=12):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("one-batch-of-waves", family="waves-gru")
def one_batch(watch, seed):
    """Sixteen windows, again and again: can the network learn them by heart? It can."""
    torch.manual_seed(seed)
    found = data.waves(seed, 16, 17, noise=0.1)
    x, y = found[:, :16, None], found[:, 16:]
    model, criterion = Recurrent("GRU", 1, 32, 1, tokens=False, each=False), nn.MSELoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), variance(y))


@sound("strokes-found-pixel-by-pixel", family="digits-auto")
def strokes(watch, seed):
    """Is a pixel dark, seen through noise? One convolution after another, one answer for each pixel."""
    torch.manual_seed(seed)
    x = data.digits()[0][:700].view(-1, 1, 8, 8)
    mask = (x > 0.5).float()
    noisy = x + 0.4 * torch.randn_like(x)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    first = loss_of(model, F.binary_cross_entropy_with_logits, noisy, mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer)
    for inputs, targets in batches(noisy, mask, size=35, epochs=6):
        found = model(inputs)
        loss = F.binary_cross_entropy_with_logits(found, targets)
        w.observe(loss=loss, outputs=found, targets=targets, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    base = float(F.binary_cross_entropy_with_logits(mask.mean().logit().expand_as(mask), mask))
    return Outcome(first, loss_of(model, F.binary_cross_entropy_with_logits, noisy, mask), base)
