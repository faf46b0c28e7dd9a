"""Heads that do not fit: activations, ranges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


class _SoftmaxCnn(parts.Cnn):
    softmax = True

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.softmax(x, dim=1) if self.softmax else x


@faulty(
    "softmax before cross-entropy",
    family="digit-images",
    causes="output-activation",
    symptoms="slow-convergence plateau silent",
)
def softmax_before_ce(watch: Watch, seed: int, mended: bool) -> float:
    """forward() ends in softmax, and CrossEntropyLoss takes another."""
    torch.manual_seed(seed)
    split = parts.digits()
    model = _SoftmaxCnn()
    model.softmax = not mended
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(split.x, split.y), batch_size=64, shuffle=True, drop_last=True)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(5):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(split.vx), split.vy).item())
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "relu on the logits",
    family="iris",
    causes="output-activation",
    symptoms="silent slow-convergence plateau loss-not-decreasing",
)
def relu_on_logits(watch: Watch, seed: int, mended: bool) -> float:
    """`F.relu` on the last layer as on the others, before CrossEntropyLoss."""
    torch.manual_seed(seed)
    split = parts.standard(parts.raw("iris"))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(4, 16), nn.Linear(16, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.fc1(x))
            x = F.relu(self.fc2(x))
            return self.fc3(x) if mended else F.relu(self.fc3(x))

    model = Net()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    for _i in range(150):
        optimizer.zero_grad()
        loss = criterion(model(split.x), split.y)
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "sigmoid before bce with logits",
    family="cancer",
    causes="output-activation",
    symptoms="slow-convergence plateau silent",
)
def sigmoid_twice(watch: Watch, seed: int, mended: bool) -> float:
    """The model ends in a sigmoid although BCEWithLogitsLoss has one."""
    torch.manual_seed(seed)
    split = parts.cancer()
    layers = [nn.Linear(30, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 1)]
    model = nn.Sequential(*layers) if mended else nn.Sequential(*layers, nn.Sigmoid())
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(12):
        model.train()
        for data in batches(split.x, split.y, size=32):
            batch = dict(zip(("features", "label"), data, strict=True))
            loss = criterion(model(batch["features"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "sigmoid decoder on centred pixels",
    family="digit-codes",
    causes="output-range",
    symptoms="plateau slow-convergence loss-not-decreasing silent",
)
def sigmoid_decoder(watch: Watch, seed: int, mended: bool) -> float:
    """A decoder for pixels in [0, 1], with data that were since centred and scaled: they go below zero."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    encoder = parts.mlp(64, 48, 10)
    decoder = parts.mlp(10, 48, 64)
    if not mended:
        decoder.append(nn.Sigmoid())
    model = nn.Sequential(encoder, decoder)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(14):
        for (x,) in DataLoader(TensorDataset(split.x), batch_size=64, shuffle=True, drop_last=True):
            loss = criterion(model(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vx))
    w.close()
    return loss_of(model, criterion, split.vx, split.vx)


@faulty(
    "relu on a regression output",
    family="wave-next",
    causes="output-range",
    symptoms="loss-not-decreasing plateau slow-convergence vanishing-gradient",
)
def relu_regression(watch: Watch, seed: int, mended: bool) -> float:
    """The forecast passes through a ReLU, and half of the values to forecast are negative."""
    torch.manual_seed(seed)
    split = parts.wave_next()

    class Forecaster(parts.WaveNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return out if mended else torch.relu(out)

    model = Forecaster(1, cell=nn.LSTM)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=40, epochs=7):
        out = model(x)
        loss = F.mse_loss(out, y)
        w.observe(loss=loss, outputs=out, targets=y, inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, F.mse_loss, split.vx, split.vy)


@faulty(
    "tanh at the end of a regressor",
    family="friedman",
    causes="output-range",
    symptoms="silent plateau slow-convergence",
)
def tanh_regressor(watch: Watch, seed: int, mended: bool) -> float:
    """Standardised targets reach from -3 to 3; the output does not leave [-1, 1]."""
    torch.manual_seed(seed)
    split = parts.friedman()
    model = parts.mlp(10, 48, 48, 1, act=nn.Tanh)
    if not mended:
        model.append(nn.Tanh())
    criterion = nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=60, epochs=12):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)
