"""Points in the plane: rings through deep networks, and clouds that generative models learn."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import surefoot as sf
from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import Residual, mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, warmed_cosine
from benchmarks.diagnose.healthy.registry import Outcome, healthy

rings = partial(healthy, family="rings-deep", part="measuring")
clouds = partial(healthy, family="clouds-generative", part="measuring")


def ringed(seed, rows=2000, noise=0.12):
    """Points on three rings, [N, 2], and on which."""
    g = data.drawn(seed)
    label = torch.randint(3, (rows,), generator=g)
    angle = 2 * math.pi * torch.rand(rows, generator=g)
    radius = 0.5 * (label + 1) + noise * torch.randn(rows, generator=g)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), label


@rings("twelve-tanh-layers")
def twelve_tanh(watch, seed):
    """Twelve tanh layers, scaled at the start so that signals keep their size."""
    torch.manual_seed(seed)
    x, y = ringed(seed)
    model, criterion = mlp(2, *[20] * 12, 3, act=nn.Tanh), nn.CrossEntropyLoss()
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, nn.init.calculate_gain("tanh"))
            nn.init.zeros_(layer.bias)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=40, epochs=7):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@rings("sixteen-residual-blocks-with-batch-norm")
def residual_blocks(watch, seed):
    """Sixteen blocks with batch norm; validated on other points."""
    torch.manual_seed(seed)
    x, y = ringed(seed)
    vx, vy = ringed(seed + 1000, 400)
    blocks = [Residual(nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(16)]
    model, criterion = nn.Sequential(nn.Linear(2, 16), *blocks, nn.Linear(16, 3)), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for _ in range(6):
        model.train()
        for inputs, labels in batches(x, y, size=50):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(vx), vy).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@rings("warm-restarts")
def warm_restarts(watch, seed):
    """The rate falls and leaps back twice, to twice the length each time."""
    torch.manual_seed(seed)
    x, y = ringed(seed)
    model, criterion = mlp(2, 64, 64, 3, norm=nn.LayerNorm), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=60, T_mult=2)
    for inputs, labels in batches(x, y, size=50, epochs=10):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@rings("one-cycle-and-schedule-free-twin")
def distilled(watch, seed):
    """A one-cycle student of a teacher trained with Schedule-Free; half true labels, half the teacher's word."""
    torch.manual_seed(seed)
    x, y = ringed(seed)
    teacher = mlp(2, 96, 3)
    study = sf.optim.ScheduleFreeAdamW(teacher.parameters(), lr=0.02)
    for inputs, labels in batches(x, y, size=100, epochs=6):
        study.zero_grad()
        F.cross_entropy(teacher(inputs), labels).backward()
        study.step()
    study.eval()
    soft = (0.5 * teacher(x).softmax(1) + 0.5 * F.one_hot(y, 3)).detach()
    model, criterion = mlp(2, 24, 24, 3, act=nn.SiLU), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, soft)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=400)
    for inputs, answers in batches(x, soft, size=50, epochs=10):
        optimizer.zero_grad()
        criterion(model(inputs), answers).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, soft), entropy(y))


def cloud(seed, rows=2000):
    """Points around four corners, [N, 2]."""
    g = data.drawn(seed)
    corner = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])[torch.randint(4, (rows,), generator=g)]
    return corner + 0.25 * torch.randn(rows, 2, generator=g)


@clouds("noise-guessed-at-any-time")
def noise_guessed(watch, seed):
    """Diffusion on points: the loss halves in the first steps and then hardly moves, as it must."""
    torch.manual_seed(seed)
    points = cloud(seed)
    model = mlp(3, 64, 64, 2, act=nn.SiLU)

    def noised(rows):
        time, noise = torch.rand(len(rows), 1), torch.randn_like(rows)
        return torch.cat([time.cos() * rows + time.sin() * noise, time], 1), noise

    some = noised(points)
    first = loss_of(model, F.mse_loss, *some)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for (rows,) in batches(points, size=100, epochs=30):
        inputs, noise = noised(rows)
        found = model(inputs)
        loss = F.mse_loss(found, noise)
        w.observe(loss=loss, outputs=found, targets=noise, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, F.mse_loss, *some), 1.0)


@clouds("density-by-couplings")
def flow(watch, seed):
    """A normalising flow: the negative log-density of continuous points, which may go below zero."""
    torch.manual_seed(seed)
    points = cloud(seed)

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(mlp(1, 32, 2, act=nn.Tanh) for _ in range(6))
            for part in self.parts:
                nn.init.zeros_(part[-1].weight)
                nn.init.zeros_(part[-1].bias)

        def forward(self, x):
            a, b, volume = x[:, :1], x[:, 1:], 0.0
            for part in self.parts:
                scale, shift = part(a).chunk(2, 1)
                scale = 2 * torch.tanh(scale)
                a, b, volume = b * scale.exp() + shift, a, volume + scale
            return 0.5 * (a.square() + b.square()) + math.log(2 * math.pi) - volume

    model = Flow()

    @torch.no_grad()
    def measured():
        return model(points).mean().item()

    first = measured()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(20, 300))
    for (rows,) in batches(points, size=100, epochs=15):
        loss = model(rows).mean()
        w.observe(loss=loss, inputs=rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    w.close()
    deviation = points.std(0)
    return Outcome(first, measured(), float(1 + math.log(2 * math.pi) + deviation.log().sum()))


@clouds("least-squares-adversaries")
def least_squares(watch, seed):
    """A GAN of least squares; each side is watched by itself; both losses come to rest away from zero."""
    torch.manual_seed(seed)
    points = cloud(seed)
    maker, judge = mlp(2, 48, 48, 2), mlp(2, 48, 48, 1, act=nn.SiLU)

    @torch.no_grad()
    def apart():
        """The energy distance of what is made from what is there."""
        made = maker(torch.randn(1000, 2, generator=data.drawn(1)))
        real = points[:1000]
        return float(
            2 * torch.cdist(made, real).mean() - torch.cdist(made, made).mean() - torch.cdist(real, real).mean()
        )

    first = apart()
    of_maker = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.0, 0.99))
    of_judge = torch.optim.Adam(judge.parameters(), lr=5e-3, betas=(0.0, 0.99))
    w, v = watch(maker, of_maker), watch(judge, of_judge)
    for (rows,) in batches(points, size=64, epochs=15):
        made = maker(torch.randn(64, 2))
        loss = (judge(rows) - 1).square().mean() + judge(made.detach()).square().mean()
        v.observe(loss=loss)
        of_judge.zero_grad()
        loss.backward()
        of_judge.step()
        loss = (judge(made) - 1).square().mean()
        w.observe(loss=loss)
        of_maker.zero_grad()
        loss.backward()
        of_maker.step()
    w.close()
    v.close()
    return Outcome(first, apart(), first)
