"""Gradients and parameters that do not meet: not cleared, cut off, left out of the optimizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "digits cnn without zero_grad",
    family="digit-images",
    causes="grad-not-cleared",
    symptoms="loss-oscillating diverging loss-not-decreasing exploding-gradient",
)
def cnn_without_zero_grad(watch: Watch, seed: int, mended: bool) -> float:
    """The classic: nobody calls zero_grad."""
    torch.manual_seed(seed)
    split = parts.digits()
    loader = DataLoader(TensorDataset(split.x, split.y), batch_size=64, shuffle=True, drop_last=True)
    model = parts.Cnn()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(6):
        model.train()
        for images, labels in loader:
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            if mended:
                optimizer.zero_grad()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "character model cleared once an epoch",
    family="python-text",
    causes="grad-not-cleared",
    symptoms="loss-oscillating slow-convergence loss-not-decreasing diverging",
)
def lm_cleared_per_epoch(watch: Watch, seed: int, mended: bool) -> float:
    """zero_grad stands in the outer loop, before the batches."""
    torch.manual_seed(seed)
    ids, held, letters = parts.python_text()
    model = parts.CharModel(letters)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for _epoch in range(5):
        optimizer.zero_grad()
        for _step in range(50):
            if mended:
                optimizer.zero_grad()
            x, y = parts.chunks(ids, 24)
            logits = model(x)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            w.observe(loss=loss, outputs=logits, targets=y, inputs=x)
            loss.backward()
            optimizer.step()
    w.close()
    return loss_of(model, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), *parts.chunks(held, 64))


@faulty(
    "accumulated gradients kept after the step",
    family="digit-pairs",
    causes="grad-not-cleared",
    symptoms="loss-oscillating slow-convergence diverging loss-not-decreasing",
)
def accumulation_kept(watch: Watch, seed: int, mended: bool) -> float:
    """A contrastive loss over four micro-batches a step; zero_grad was dropped to let gradients accumulate."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = parts.mlp(64, 48, 8)

    def contrastive(first: Tensor, second: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        gap = F.pairwise_distance(model(first), model(second))
        return (same * gap.square() + (1 - same) * F.relu(1.0 - gap).square()).mean(), gap

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer)
    for step in range(1, 601):
        first, second, same = parts.pairs(split.x, split.y, 16)
        loss, gap = contrastive(first, second, same)
        w.observe(loss=loss, outputs=gap, targets=same, inputs=first)
        (loss / 4).backward()
        if step % 4 == 0:
            optimizer.step()
            if mended:
                optimizer.zero_grad()
    w.close()
    with torch.no_grad():
        return contrastive(*parts.pairs(split.vx, split.vy, 400))[0].item()


class _NoGradWave(parts.WaveNet):
    """Features under no_grad, a left-over of feature extraction."""

    extract = True

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.extract):
            features = self.rnn(x)[0][:, -1]
        return self.head(features)


@faulty(
    "recurrent features under no_grad",
    family="wave-classes",
    causes="no-gradient",
    symptoms="plateau slow-convergence loss-not-decreasing silent",
)
def features_under_no_grad(watch: Watch, seed: int, mended: bool) -> float:
    """The forward pass still wraps the recurrent layer in no_grad, as it did when that was pretrained."""
    torch.manual_seed(seed)
    split = parts.wave_classes()
    model = _NoGradWave(3)
    model.extract = not mended
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=32, epochs=6):
        optimizer.zero_grad(set_to_none=True)
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return parts.wrong(model, split.vx, split.vy)


class _DetachedFactors(parts.Factors):
    detached = True

    def forward(self, pair: Tensor) -> Tensor:
        user, item = self.user(pair[:, 0]), self.item(pair[:, 1])
        if self.detached:
            user = user.detach()
        return (user * item).sum(dim=1)


@faulty(
    "user vectors detached",
    family="ratings",
    causes="no-gradient",
    symptoms="slow-convergence plateau silent",
)
def detached_users(watch: Watch, seed: int, mended: bool) -> float:
    """A detach() from an experiment with alternating updates was left in forward."""
    torch.manual_seed(seed)
    split = parts.ratings()
    model = _DetachedFactors()
    model.detached = not mended
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03, weight_decay=1e-4)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        model.train()
        for pair, rating in batches(split.x, split.y, size=128):
            loss = criterion(model(pair), rating)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(split.vx), split.vy).item())
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


class _ListNet(nn.Module):
    """Hidden layers in a list."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.inlet = nn.Linear(10, 20)
        layers = [nn.Linear(20, 20) for _ in range(3)]
        self.layers = nn.ModuleList(layers) if registered else layers
        self.outlet = nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inlet(x))
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.outlet(x)


@faulty(
    "layers in a plain list",
    family="friedman",
    causes="not-in-optimizer",
    symptoms="silent slow-convergence plateau",
)
def plain_list(watch: Watch, seed: int, mended: bool) -> float:
    """Hidden layers kept in a Python list, not a ModuleList: parameters() does not know them."""
    torch.manual_seed(seed)
    split = parts.friedman()
    model = _ListNet(mended)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=64, epochs=10):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "head replaced after the optimizer was made",
    family="digit-vectors",
    causes="not-in-optimizer",
    symptoms="slow-convergence loss-not-decreasing plateau silent",
)
def stale_head(watch: Watch, seed: int, mended: bool) -> float:
    """Fine-tuning from odd-or-even to ten digits: the new head comes after Adam has taken the old one's parameters."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 2))
    teacher = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, y in batches(split.x, split.y % 2, size=64, epochs=3):
        teacher.zero_grad()
        F.cross_entropy(model(x), y).backward()
        teacher.step()
    if mended:
        model[2] = nn.Linear(48, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if not mended:
        model[2] = nn.Linear(48, 10)
    criterion = nn.CrossEntropyLoss()
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(6):
        model.train()
        for x, y in batches(split.x, split.y, size=32):
            model.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(split.vx), split.vy).item())
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


class _Coder(nn.Module):
    def __init__(self, code: int = 10) -> None:
        super().__init__()
        self.encoder = parts.mlp(64, 48, code)
        self.decoder = parts.mlp(code, 48, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@faulty(
    "only the decoder is given to AdamW",
    family="digit-codes",
    causes="not-in-optimizer",
    symptoms="silent slow-convergence plateau",
)
def decoder_only(watch: Watch, seed: int, mended: bool) -> float:
    """An autoencoder whose optimizer was written for the decoder alone, though the encoder is to learn as well."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = _Coder()
    params = list(model.decoder.parameters())
    if mended:
        params += list(model.encoder.parameters())
    optimizer = torch.optim.AdamW(params, lr=5e-3)
    w = watch(model, optimizer)
    for (x,) in batches(split.x, size=64, epochs=14):
        out = model(x)
        loss = F.mse_loss(out, x)
        w.observe(loss=loss, outputs=out, targets=x, inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, F.mse_loss, split.vx, split.vx.clone())
