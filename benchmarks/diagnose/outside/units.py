"""Units that do not respond, and models too small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surefoot as sf
from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "dead_prior_bias_everywhere",
    family="digits-cnn",
    causes="dead-units init-too-large",
    symptoms="loss-not-decreasing vanishing-gradient plateau",
)
def dead_prior_bias_everywhere(watch: Watch, seed: int, mended: bool) -> float:
    """RetinaNet's bias of -4.6, made for the head, written into every convolution: no ReLU ever opens."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits(images=True)
    model = parts.SmallCNN(12)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.constant_(m.bias, 0.0 if mended else -4.6)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
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


class Additive(nn.Module):
    """A hidden layer of thresholds: each unit opens above its own level."""

    def __init__(self, lowest: float, highest: float) -> None:
        super().__init__()
        self.a = nn.Linear(10, 64)
        self.b = nn.Linear(64, 1)
        nn.init.uniform_(self.a.bias, lowest, highest)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


@faulty(
    "dead_thresholds_regression",
    family="friedman",
    causes="dead-units init-too-large",
    symptoms="loss-not-decreasing plateau vanishing-gradient",
)
def dead_thresholds_regression(watch: Watch, seed: int, mended: bool) -> float:
    """Biases drawn far below what the inputs reach: the hidden layer is silent and only the last bias learns."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = Additive(-1.0, 1.0) if mended else Additive(-3.4, -2.6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    w = watch(model, optimizer)
    for xb, yb in parts.batches(x, y, 64, 420):
        optimizer.zero_grad()
        out = model(xb)
        loss = ((out - yb) ** 2).mean()
        w.observe(loss=loss, outputs=out, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, nn.MSELoss(), xv, yv)


class Steep(nn.Module):
    """Nearly a step function."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.gain * x)


@faulty(
    "saturated_steep_tanh",
    family="friedman",
    causes="saturated-units",
    symptoms="plateau overfitting slow-convergence",
)
def saturated_steep_tanh(watch: Watch, seed: int, mended: bool) -> float:
    """tanh(100 x) in place of a sign: nearly all units sit at their limits from the start."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.friedman()
    model = parts.mlp(10, 48, 48, 1, act=lambda: Steep(1.0 if mended else 100.0))
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for step, (xb, yb) in enumerate(parts.batches(x, y, 60, 300)):
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        if step % 30 == 29:
            w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "saturated_sigmoid_gate",
    family="multilabel",
    causes="saturated-units init-too-large",
    symptoms="plateau vanishing-gradient loss-not-decreasing slow-convergence",
)
def saturated_sigmoid_gate(watch: Watch, seed: int, mended: bool) -> float:
    """Hidden sigmoids with a bias of 25 `so that the gates start open`: they stay open."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.multilabel()
    model = nn.Sequential(nn.Linear(20, 40), nn.Sigmoid(), nn.Linear(40, 6))
    nn.init.constant_(model[0].bias, 0.0 if mended else 25.0)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        for rows, labels in parts.loader(x, y, 48):
            optimizer.zero_grad()
            loss = criterion(model(rows), labels)
            loss.backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "capacity_two_hidden_units", family="spirals", causes="too-little-capacity", symptoms="plateau slow-convergence"
)
def capacity_two_hidden_units(watch: Watch, seed: int, mended: bool) -> float:
    """Two hidden units for two spirals."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.spirals()
    width = 48 if mended else 2
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(30):
        model.train()
        for xb, yb in parts.batches(x, y, 60, 10):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty("capacity_bottleneck_of_one", family="digits-autoencoder", causes="too-little-capacity", symptoms="plateau")
def capacity_bottleneck_of_one(watch: Watch, seed: int, mended: bool) -> float:
    """An autoencoder with a code of a single number and eight hidden units."""
    torch.manual_seed(seed)
    x, _, xv, _ = parts.digits()
    net = parts.AutoEncoder(code=16, width=96) if mended else parts.AutoEncoder(code=1, width=8)
    opt = sf.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-4)
    w = watch(net, opt)
    for batch, _same in parts.batches(x, x, 64, 300):
        opt.zero_grad()
        recon = net(batch)
        loss = F.mse_loss(recon, batch)
        w.observe(loss=loss, outputs=recon, targets=batch, inputs=batch)
        loss.backward()
        opt.step()
    w.close()
    return parts.score(net, nn.MSELoss(), xv, xv)


@faulty(
    "capacity_one_factor", family="factorisation", causes="too-little-capacity", symptoms="plateau slow-convergence"
)
def capacity_one_factor(watch: Watch, seed: int, mended: bool) -> float:
    """One factor per user and item for ratings that have four."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.ratings()
    model = parts.Factors(dim=5 if mended else 1)
    mse = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer, loss=mse)
    for _epoch in range(9):
        for pairs, rating in parts.batches(x, y, 128, 52):
            optimizer.zero_grad()
            mse(model(pairs), rating).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, mse, xv, yv))
    w.close()
    return parts.score(model, mse, xv, yv)
