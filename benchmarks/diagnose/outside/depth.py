"""Depth that shrinks or blows up the gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "deep_sigmoid_digits",
    family="digits-mlp",
    causes="deep-vanishing init-too-small",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def deep_sigmoid_digits(watch: Watch, seed: int, mended: bool) -> float:
    """Five layers of sigmoids, as in a lecture of 1990; ReLUs learn with the same settings."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = parts.mlp(64, 64, 64, 64, 64, 64, 10, act=nn.ReLU if mended else nn.Sigmoid)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(10):
        for xb, yb in parts.loader(x, y, 64):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


class Plain(nn.Module):
    """Many narrow layers, with or without a way past each."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int, skip: bool) -> None:
        super().__init__()
        self.inp = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, outputs)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inp(x))
        for layer in self.hidden:
            h = h + torch.tanh(layer(h)) if self.skip else torch.tanh(layer(h))
        return self.out(h)


@faulty(
    "deep_tanh_without_skips",
    family="friedman",
    causes="deep-vanishing init-too-small optimizer-unsuited",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def deep_tanh_without_skips(watch: Watch, seed: int, mended: bool) -> float:
    """Sixteen tanh layers in torch's default initialisation and no residual connection."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = Plain(10, 24, 16, 1, skip=mended)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    w = watch(model, optimizer)
    for xb, yb in parts.batches(x, y, 64, 280):
        optimizer.zero_grad()
        out = model(xb)
        loss = F.mse_loss(out, yb)
        w.observe(loss=loss, outputs=out, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


@faulty(
    "deep_relu_default_init",
    family="spirals",
    causes="deep-vanishing init-too-small optimizer-unsuited",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def deep_relu_default_init(watch: Watch, seed: int, mended: bool) -> float:
    """Fourteen ReLU layers in torch's default initialisation, which shrinks the signal in each; norms mend it."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.spirals()
    layers: list[nn.Module] = []
    width = 2
    for _ in range(14):
        layers += [nn.Linear(width, 32), nn.BatchNorm1d(32) if mended else nn.Identity(), nn.ReLU()]
        width = 32
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(20):
        model.train()
        for xb, yb in parts.batches(x, y, 60, 10):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(xv), yv).item())
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "deep_relu_gain_too_large",
    family="digits-mlp",
    causes="deep-exploding init-too-large",
    symptoms="exploding-gradient diverging non-finite loss-not-decreasing",
)
def deep_relu_gain_too_large(watch: Watch, seed: int, mended: bool) -> float:
    """Ten ReLU layers whose weights are each a little too large: the signal grows from layer to layer."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    layers: list[nn.Module] = []
    for _ in range(10):
        layers += [nn.Linear(64, 64), nn.LayerNorm(64) if mended else nn.Identity(), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for m in layers:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.3)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        for xb, yb in parts.batches(x, y, 64, 21):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


class Residual(nn.Module):
    """Blocks added up, normalised or not before the branch."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32) if norm else nn.Identity(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
            for _ in range(16)
        )
        self.out = nn.Sequential(nn.LayerNorm(32) if norm else nn.Identity(), nn.Linear(32, 1))
        for block in self.blocks:
            nn.init.kaiming_normal_(block[1].weight)
            nn.init.kaiming_normal_(block[3].weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.out(h)


@faulty(
    "deep_residual_without_norm",
    family="friedman",
    causes="deep-exploding init-too-large",
    symptoms="exploding-gradient slow-convergence loss-spike",
)
def deep_residual_without_norm(watch: Watch, seed: int, mended: bool) -> float:
    """Sixteen residual blocks at He's scale with no normalisation: the variance triples in each."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = Residual(norm=mended)
    mse = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    w = watch(model, optimizer, loss=mse)
    for xb, yb in parts.batches(x, y, 64, 200):
        optimizer.zero_grad()
        loss = mse(model(xb), yb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, mse, xv, yv)
