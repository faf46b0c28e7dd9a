"""Images: raw pixel values, zero-initialised branches, depthwise kernels; and models that draw them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, variance
from benchmarks.diagnose.healthy.data import digits, drawn, shapes, spirals
from benchmarks.diagnose.healthy.outside.made import flipped, low_rank
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("o-pixels-behind-batch-norm", family="o-images-cnn", part="outside")
def pixels(watch: Watch, seed: int) -> Outcome:
    """Pixel values of 0 to 255 go in; the first layer is a batch norm, so no convolution sees them."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    x, xv = (255 * part.view(-1, 1, 8, 8) for part in (x, xv))
    model = nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for _ in range(6):
        for inputs, targets in batches(x, y, size=48):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        schedule.step()
        w.validated(loss=loss_of(model, criterion, xv, yv))
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


class Grey(nn.Module):
    """Each of 17 shades of each pixel has a vector of its own; the image is the sum of them."""

    def __init__(self) -> None:
        super().__init__()
        self.shades = nn.EmbeddingBag(17 * 64, 32, mode="sum")
        nn.init.normal_(self.shades.weight, std=0.1)
        self.rest = mlp(32, 32, 10)
        self.register_buffer("start", 17 * torch.arange(64))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.shades(x + self.start).relu())


@healthy("o-shades-as-integers", family="o-digits-mlp", part="outside")
def shades(watch: Watch, seed: int) -> Outcome:
    """The inputs are integers of 0 to 16, looked up in an embedding: their size says nothing."""
    torch.manual_seed(seed)
    x, y, xv, yv = digits()
    x, xv = ((16 * part).round().long() for part in (x, xv))
    model, criterion = Grey(), nn.CrossEntropyLoss(label_smoothing=0.2)
    first = loss_of(model, criterion, xv, yv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for inputs, targets in batches(x, y, size=64, epochs=12):
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, yv), math.log(10))


class Branch(nn.Module):
    """x + f(x), where f ends in a batch norm whose weight starts at zero; kernels may be depthwise."""

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1 if groups > 1 else 3, padding=0 if groups > 1 else 1, bias=False),
            nn.BatchNorm2d(width),
        )
        nn.init.zeros_(self.inner[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.inner(x)).relu()


def _shapes_program(watch: Watch, seed: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Outcome:
    x, y, _ = shapes(seed, 32 * 170 + 500, noise=0.15)
    y = flipped(y, 0.2, seed, 4)
    xv, yv, x, y = x[:500], y[:500], x[500:], y[500:]
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, xv, yv)
    with watch(model, optimizer, loss=criterion):
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 170)
        for inputs, targets in batches(x, y, size=32):
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    return Outcome(first, loss_of(model, criterion, xv, yv), entropy(yv))


@healthy("o-branches-start-at-zero", family="o-images-cnn", part="outside")
def zero_branches(watch: Watch, seed: int) -> Outcome:
    """Residual branches give zero at first, and so does the head: most weights have no gradient in the first step."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Branch(16),
        Branch(16),
        nn.AdaptiveMaxPool2d(1),
    )
    model.extend([nn.Flatten(), nn.Linear(16, 4)])
    nn.init.zeros_(model[-1].weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    return _shapes_program(watch, seed, model, optimizer)


@healthy("o-depthwise", family="o-images-cnn", part="outside")
def depthwise(watch: Watch, seed: int) -> Outcome:
    """Depthwise and pointwise kernels: the former have nine weights each and small gradients."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 5, padding=2, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), Branch(24, 24)
    )
    model.extend([Branch(24, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)])
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3, momentum=0.5)
    return _shapes_program(watch, seed, model, optimizer)


@healthy("o-narrow-autoencoder", family="o-drawing", part="outside")
def autoencoder(watch: Watch, seed: int) -> Outcome:
    """Targets are the inputs; what does not fit through the bottleneck is noise, and stays as loss."""
    torch.manual_seed(seed)
    x = low_rank(seed, 64 * 300 + 1000, columns=24, rank=3, noise=0.5)
    xv, x = x[:1000], x[1000:]
    model, criterion = nn.Sequential(mlp(24, 32, 3), mlp(3, 32, 24)), nn.MSELoss()
    first = loss_of(model, criterion, xv, xv)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for (inputs,) in batches(x, size=64):
        optimizer.zero_grad()
        criterion(model(inputs), inputs).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, xv, xv), variance(xv))


class Variational(nn.Module):
    """Mean and log-variance of a code, a drawn code, and what it decodes to."""

    def __init__(self, columns: int, code: int) -> None:
        super().__init__()
        self.encode, self.decode = mlp(columns, 48, 2 * code, act=nn.SiLU), mlp(code, 48, columns, act=nn.SiLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encode(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp() if self.training else mean
        return self.decode(code), mean, spread


def bound(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    """The evidence bound with unit variance 0.25, summed over columns and rows, by the number of rows."""
    again, mean, spread = outputs
    fit = F.mse_loss(again, x, reduction="sum") / (2 * 0.25)
    return (fit + 0.5 * (mean.square() + spread.exp() - 1 - spread).sum()) / len(x)


@healthy("o-evidence-bound", family="o-drawing", part="outside")
def variational(watch: Watch, seed: int) -> Outcome:
    """A VAE whose loss is a sum over columns: 80 at first, 23 at the end; two of eight codes are never used."""
    torch.manual_seed(seed)
    x = low_rank(seed, 64 * 300 + 1000, columns=32, rank=6, noise=0.5)
    xv, x = x[:1000], x[1000:]
    model = Variational(32, 8)
    first = loss_of(model, bound, xv, xv)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer)
    for (inputs,) in batches(x, size=64):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = bound(outputs, inputs)
        w.observe(loss=loss, outputs=outputs[0], targets=inputs, inputs=inputs)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, bound, xv, xv), 32 * variance(xv) / 0.5)


@healthy("o-noise-is-the-target", family="o-drawing", part="outside")
def diffusion(watch: Watch, seed: int) -> Outcome:
    """A denoiser guesses the noise at a random time: the loss falls in the first hundred steps and then shakes."""
    torch.manual_seed(seed)
    points = 1.4 * spirals(seed, 4000, noise=0.02)[0]
    model, criterion = mlp(5, 96, 96, 2, act=nn.SiLU), nn.MSELoss()

    def noised(rows: Tensor, g: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        time, noise = torch.rand(len(rows), 1, generator=g), torch.randn(rows.shape, generator=g)
        angle = 0.05 + 1.5 * time
        clue = torch.cat([time, (6.28 * time).sin(), (6.28 * time).cos()], 1)
        return torch.cat([angle.cos() * rows + angle.sin() * noise, clue], 1), noise

    seen, wanted = noised(points, drawn(seed + 8))
    first = loss_of(model, criterion, seen, wanted)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for (rows,) in batches(points, size=125, epochs=11):
        inputs, noise = noised(rows)
        optimizer.zero_grad()
        criterion(model(inputs), noise).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, seen, wanted), variance(wanted))
