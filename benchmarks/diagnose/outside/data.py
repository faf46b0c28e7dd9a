"""Data that come in wrongly: not scaled, not finite, prepared differently for validation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "wine as it comes",
    family="wine",
    causes="input-unscaled",
    symptoms="loss-not-decreasing plateau exploding-gradient loss-spike",
)
def wine_raw(watch: Watch, seed: int, mended: bool) -> float:
    """Proline stands near 700, hue near 1: no StandardScaler."""
    torch.manual_seed(seed)
    split = parts.raw("wine")
    if mended:
        split = parts.standard(split)
    model = nn.Sequential(nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(40):
        model.train()
        for x, y in batches(split.x, split.y, size=32):
            optimizer.zero_grad()
            outputs = model(x)
            loss = criterion(outputs, y)
            loss.backward()
            optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "temperatures in kelvin",
    family="friedman",
    causes="input-unscaled",
    symptoms="plateau loss-not-decreasing slow-convergence",
)
def kelvin(watch: Watch, seed: int, mended: bool) -> float:
    """Ten sensors around 293 with a spread of one: scaled in a way, but not centred."""
    torch.manual_seed(seed)
    split = parts.friedman()
    split = split._replace(x=split.x + 293.0, vx=split.vx + 293.0)
    if mended:
        split = parts.standard(split)
    model = parts.mlp(10, 40, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    criterion = nn.MSELoss()
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(10):
        model.train()
        for x, y in batches(split.x, split.y, size=60):
            optimizer.zero_grad(set_to_none=True)
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "gru fed with sixteen-bit samples",
    family="wave-classes",
    causes="input-unscaled",
    symptoms="loss-not-decreasing plateau slow-convergence vanishing-gradient",
)
def sixteen_bit_audio(watch: Watch, seed: int, mended: bool) -> float:
    """Integer samples of a wave file, up to 32767, go into a GRU; its gates are saturated from the first step."""
    torch.manual_seed(seed)
    split = parts.wave_classes()
    split = split._replace(x=(split.x * 10_000).round(), vx=(split.vx * 10_000).round())
    scale = 1 / 10_000 if mended else 1.0
    model = parts.WaveNet(3, cell=nn.GRU)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=40, epochs=7):
        samples = x * scale
        logits = model(samples)
        loss = F.cross_entropy(logits, y)
        w.observe(loss=loss, outputs=logits, targets=y, inputs=samples)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    w.close()
    return parts.wrong(model, split.vx * scale, split.vy)


@faulty(
    "disease progression in its own unit",
    family="diabetes",
    causes="target-unscaled",
    symptoms="slow-convergence",
)
def raw_progression(watch: Watch, seed: int, mended: bool) -> float:
    """Targets from 25 to 346 with inputs of unit scale: the output bias needs its whole run to get there."""
    torch.manual_seed(seed)
    split = parts.standard(parts.raw("diabetes"))
    mean, std = (split.y.mean(), split.y.std()) if mended else (torch.tensor(0.0), torch.tensor(1.0))
    y_train = ((split.y - mean) / std).unsqueeze(1)
    model = parts.mlp(10, 16, 1)
    criterion = nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, y_train, size=32, epochs=15):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    w.close()
    model.eval()
    with torch.no_grad():
        return (model(split.vx).flatten() * std + mean - split.vy).abs().mean().item()


@faulty(
    "prices in cents",
    family="wave-next",
    causes="target-unscaled",
    symptoms="slow-convergence loss-not-decreasing plateau",
)
def prices_in_cents(watch: Watch, seed: int, mended: bool) -> float:
    """The windows are normalised; what they are to forecast stays a price of about 25000 cents, give or take 800."""
    torch.manual_seed(seed)
    split = parts.wave_next()
    cents, held = 25_000 + 800 * split.y, 25_000 + 800 * split.vy
    mean, std = (cents.mean().item(), cents.std().item()) if mended else (0.0, 1.0)
    model = parts.WaveNet(1, cell=nn.LSTM)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(7):
        model.train()
        for x, y in batches(split.x, (cents - mean) / std, size=40):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, (held - mean) / std))
    w.close()
    with torch.no_grad():
        return ((model(split.vx) * std + mean - held) / 800).square().mean().item()


@faulty(
    "a missing value in the table",
    family="cancer",
    causes="non-finite-input",
    symptoms="non-finite",
)
def missing_value(watch: Watch, seed: int, mended: bool) -> float:
    """read_csv gave NaN for three empty cells; nobody filled them."""
    torch.manual_seed(seed)
    split = parts.cancer()
    train = split.x.clone()
    train[torch.randint(len(train), (3,)), torch.tensor([4, 11, 20])] = float("nan")
    if mended:
        train = train.nan_to_num(nan=0.0)
    model = parts.mlp(30, 16, 1, dropout=0.2)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        model.train()
        for x, y in batches(train, split.y, size=32):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
    w.close()
    loss = loss_of(model, criterion, split.vx, split.vy)
    return loss if loss == loss else float("inf")


@faulty(
    "logarithm of empty bins",
    family="digit-vectors",
    causes="non-finite-input",
    symptoms="non-finite",
)
def log_of_zero(watch: Watch, seed: int, mended: bool) -> float:
    """Counts are taken to a log scale, and many counts are zero: minus infinity from the first batch on."""
    torch.manual_seed(seed)
    split = parts.raw("digits")
    offset = 1.0 if mended else 0.0

    def features(counts: Tensor) -> Tensor:
        return (torch.log(counts + offset) - 1.2) / 1.1

    model = parts.mlp(64, 48, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for counts, y in batches(split.x, split.y, size=64, epochs=6):
        x = features(counts)
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        w.observe(loss=loss, outputs=logits, targets=y, inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return parts.wrong(model, torch.log(split.vx + 1.0).sub(1.2).div(1.1), split.vy)


class _Images(Dataset):
    """Images and labels; the transform belongs to each set."""

    def __init__(self, images: Tensor, labels: Tensor, scale: bool) -> None:
        self.images, self.labels, self.scale = images, labels, scale

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        image = self.images[i].view(1, 8, 8)
        return {"image": (image - 4.9) / 6.0 if self.scale else image, "label": self.labels[i]}


@faulty(
    "normalise left out of the validation transform",
    family="digit-images",
    causes="train-val-mismatch",
    symptoms="silent overfitting",
)
def unscaled_validation(watch: Watch, seed: int, mended: bool) -> float:
    """Normalisation was added to the transform for training only. The value is what the program itself reports."""
    torch.manual_seed(seed)
    split = parts.raw("digits")
    train = DataLoader(_Images(split.x, split.y, True), batch_size=64, shuffle=True, drop_last=True)
    val = DataLoader(_Images(split.vx, split.vy, mended), batch_size=150)
    model = parts.Cnn(dropout=0.1)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    reported = 0.0
    for _epoch in range(6):
        model.train()
        for batch in train:
            optimizer.zero_grad()
            loss = criterion(model(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            reported = sum(criterion(model(batch["image"]), batch["label"]).item() for batch in val) / len(val)
        w.validated(loss=reported)
    w.close()
    return reported


@faulty(
    "validation targets never scaled",
    family="diabetes",
    causes="train-val-mismatch",
    symptoms="silent overfitting",
)
def raw_validation_targets(watch: Watch, seed: int, mended: bool) -> float:
    """Training targets are standardised, validation targets are not. The value is what the program itself reports."""
    torch.manual_seed(seed)
    split = parts.diabetes()
    held = split.vy if mended else parts.raw("diabetes").vy[:, None]
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    val_loss = 0.0
    for _epoch in range(10):
        model.train()
        for x, y in batches(split.x, split.y, size=32):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            val_loss = criterion(model(split.vx), held).item()
        w.validated(loss=val_loss)
    w.close()
    return val_loss
