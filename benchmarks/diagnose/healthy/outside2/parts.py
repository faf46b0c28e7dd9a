"""Frozen parts, deep or bounded nets, averages, sharpness, graphs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import surefoot as sf
from benchmarks.diagnose.healthy.blocks import Residual, mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.outside2.rows import blurred, digits, generated, parted, table
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


def quickly(model: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float = 3e-3) -> None:
    """Train a classifier before anybody watches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for inputs, targets in batches(x, y, size=32, epochs=epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


@healthy("2-body-joins-midway", family="2-tuned", part="outside2")
def joins(watch: Watch, seed: int) -> Outcome:
    """Digits below five were learnt; five to nine are, head alone first, then the body in a group of a tenth the rate.

    The batch norm keeps its statistics throughout."""
    torch.manual_seed(seed)
    x, y, x2, y2 = digits(seed)
    low, high, high2 = y < 5, y >= 5, y2 >= 5
    body = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 48)
    )
    quickly(nn.Sequential(body, nn.ReLU(), nn.Linear(48, 5)), x[low], y[low], 5)
    x, y, x2 = x[high], blurred(y[high] - 5, 0.25, 5), x2[high2].repeat(4, 1, 1, 1)
    y2 = blurred((y2[high2] - 5).repeat(4), 0.25, 5)
    head, criterion = nn.Linear(48, 5), nn.CrossEntropyLoss()
    model = nn.Sequential(body, nn.ReLU(), head)
    body.requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=8e-3)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for epoch in range(7):
        if epoch == 4:
            body.requires_grad_(True)
            body[1].requires_grad_(False)
            rate = optimizer.param_groups[0]["lr"] / 10
            optimizer.add_param_group({"params": [p for p in body.parameters() if p.requires_grad], "lr": rate})
        model.train()
        body[1].eval()
        for inputs, targets in batches(x, y, size=24):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, x2, y2))
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


class Tempered(nn.Module):
    """A frozen net whose logits are divided by the one number to be learnt."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.log = net.requires_grad_(False).eval(), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.log.exp()


@healthy("2-only-a-temperature", family="2-tuned", part="outside2")
def temperature(watch: Watch, seed: int) -> Outcome:
    """An overconfident net stays as it is, in evaluation mode; one number calibrates it; accuracy cannot move."""
    torch.manual_seed(seed)
    options = {"n_samples": 5000, "n_features": 12, "n_informative": 8, "n_classes": 5, "flip_y": 0.25}
    x, y, x2, y2 = generated("classification", seed, held=0.5, class_sep=1.3, **options)
    net, criterion = mlp(12, 96, 5, drop=0.1), nn.CrossEntropyLoss()
    quickly(net, x[:600], y[:600], 40, 1e-2)
    model = Tempered(net)
    optimizer = torch.optim.SGD([model.log], lr=0.3)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x[600:], y[600:], size=190, epochs=15):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), min(first, entropy(y2)))


@healthy("2-thirty-blocks-from-zero", family="2-deep", part="outside2")
def thirty(watch: Watch, seed: int) -> Outcome:
    """Thirty residual blocks with weight norm, each one's last scale zero at first, so that their inner layers rest."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("friedman1", seed, n_samples=2400, n_features=6, noise=2.5)

    def block() -> Residual:
        last = nn.Linear(16, 16)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return Residual(nn.LayerNorm(16), weight_norm(nn.Linear(16, 16)), nn.ReLU(), last)

    model = nn.Sequential(nn.Linear(6, 16), *[block() for _ in range(30)], nn.LayerNorm(16), nn.Linear(16, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(10, 105))
    for inputs, targets in batches(x, y, size=48, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    return Outcome(first, loss_of(model, criterion, x2, y2), variance(y2))


@healthy("2-sensors-behind-a-layer-norm", family="2-deep", part="outside2")
def sensors(watch: Watch, seed: int) -> Outcome:
    """Readings about 500 with a level of their own to each row, levelled by a layer norm; spectral norm, and Lion."""
    torch.manual_seed(seed)
    kind = torch.randint(5, (4000,))
    shapes = torch.randn(5, 16)
    level, reach = 500 + 100 * torch.randn(4000, 1), 20 * torch.rand(4000, 1) + 10
    readings = level + reach * (shapes[kind] + 1.5 * torch.randn(4000, 16))
    x, y, x2, y2 = parted(readings, kind, seed)
    inner = [spectral_norm(nn.Linear(32, 32)), nn.ReLU(), spectral_norm(nn.Linear(32, 32)), nn.ReLU()]
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.SELU(), *inner, nn.Linear(32, 5))
    criterion = nn.CrossEntropyLoss()
    optimizer = sf.optim.Lion(model.parameters(), lr=2e-3, weight_decay=0.05)
    first = loss_of(model, criterion, x2, y2)
    with watch(model, optimizer, loss=criterion) as w:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(20, 300))
        for inputs, targets in batches(x, y, size=56, epochs=6):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
        with w.validation(), torch.no_grad():
            model.eval()
            criterion(model(x2), y2)
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


class Drawn(nn.Module):
    """Digits by four drawn numbers; the answer is the pair of logits and the distance from the prior."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 64, 8, act=nn.GELU), mlp(4, 64, 64, act=nn.GELU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log = self.encode(x).chunk(2, 1)
        drawn = mean + (log / 2).exp() * torch.randn_like(mean) if self.training else mean
        return self.decode(drawn), (mean.square() + log.exp() - 1 - log).sum(1) / 2


@healthy("2-four-drawn-numbers", family="2-drawn", part="outside2")
def drawn(watch: Watch, seed: int) -> Outcome:
    """A variational autoencoder: pixels summed, shades between 0 and 1 as targets, the prior's weight ramped up."""
    torch.manual_seed(seed)
    x, _, x2, _ = (part.flatten(1) if part.ndim > 1 else part for part in digits(seed))
    model = Drawn()

    def bound(inputs: Tensor, weight: float, w: object = None) -> Tensor:
        outputs, apart = model(inputs)
        pixels = F.binary_cross_entropy_with_logits(outputs, inputs, reduction="none").sum(1)
        loss = (pixels + weight * apart).mean()
        if w is not None:
            w.observe(loss=loss, outputs=outputs, targets=inputs, inputs=inputs)
        return loss

    def held() -> float:
        with torch.no_grad():
            return bound(x2.repeat(4, 1), 1.0).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = held()
    w = watch(model, optimizer)
    for epoch in range(10):
        for (inputs,) in batches(x, size=32):
            loss = bound(inputs, min(1.0, (epoch + 1) / 4), w)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    mean = x.mean(0).clamp(1e-4, 1 - 1e-4)
    return Outcome(first, held(), F.binary_cross_entropy(mean.expand_as(x2), x2, reduction="none").sum(1).mean().item())


@healthy("2-two-gradients-a-step", family="2-averaged", part="outside2")
def sharpness(watch: Watch, seed: int) -> Outcome:
    """A step up to where the loss is worst nearby, a second gradient there, back, and only then the step."""
    torch.manual_seed(seed)
    x, y, x2, y2 = table("breast_cancer", seed)
    x, x2 = x + 1.5 * torch.randn_like(x), x2 + 1.5 * torch.randn_like(x2)
    model, criterion = mlp(30, 16, 2), nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-3)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(8):
        for inputs, targets in batches(x, y, size=24):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            with torch.no_grad():
                size = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
                away = [0.05 * p.grad / (size + 1e-12) for p in model.parameters()]
                for p, move in zip(model.parameters(), away, strict=True):
                    p.add_(move)
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            with torch.no_grad():
                for p, move in zip(model.parameters(), away, strict=True):
                    p.sub_(move)
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, x2, y2))
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


@healthy("2-mean-of-late-weights", family="2-averaged", part="outside2")
def averaged(watch: Watch, seed: int) -> Outcome:
    """SWA: the rate is held up at the end so that the weights wander, and their mean is what is used."""
    torch.manual_seed(seed)
    options = {"n_samples": 4000, "n_features": 16, "n_informative": 8, "n_classes": 3, "flip_y": 0.2}
    x, y, x2, y2 = generated("classification", seed, class_sep=1.2, **options)
    model, criterion = mlp(16, 48, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    first = loss_of(model, criterion, x2, y2)
    watch(model, optimizer, loss=criterion)
    mean = torch.optim.swa_utils.AveragedModel(model)
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.8 * optimizer.param_groups[0]["lr"], anneal_epochs=3)
    for epoch in range(9):
        for inputs, targets in batches(x, y, size=56):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        if epoch > 3:
            mean.update_parameters(model)
            schedule.step()
    return Outcome(first, loss_of(mean, criterion, x2, y2), math.log(3))


@healthy("2-few-nodes-told", family="2-graphs", part="outside2")
def nodes(watch: Watch, seed: int) -> Outcome:
    """One graph, the same in every step; one node in five has a label, and the loss picks these out of the outputs."""
    torch.manual_seed(seed)
    kind = torch.randint(4, (900,))
    alike = (kind[:, None] == kind).float()
    edges = torch.bernoulli(0.008 * alike + 0.003).triu(1)
    edges = edges + edges.T + torch.eye(900)
    spread = edges / edges.sum(1, keepdim=True)
    features = F.one_hot(kind, 4).float() @ torch.randn(4, 12) * 0.5 + torch.randn(900, 12)
    told = torch.rand(900) < 0.2
    labels = blurred(kind, 0.1, 4)
    one, two = nn.Linear(12, 24), nn.Linear(24, 4)
    model, criterion = nn.ModuleList([one, nn.Dropout(0.5), two]), nn.CrossEntropyLoss()

    def logits() -> Tensor:
        return spread @ two(model[1](F.relu(spread @ one(features))))

    def held() -> float:
        model.eval()
        with torch.no_grad():
            loss = criterion(logits()[~told], labels[~told]).item()
        model.train()
        return loss

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-3)
    first = held()
    w = watch(model, optimizer, loss=criterion)
    for step in range(120):
        optimizer.zero_grad()
        criterion(logits()[told], labels[told]).backward()
        optimizer.step()
        if step % 10 == 9:
            w.validated(loss=held())
    w.close()
    return Outcome(first, held(), entropy(labels[~told]))
