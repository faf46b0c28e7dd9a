"""Data: scales, order, labels, broken items."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.diagnose.faults import faulty

SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05}


def broken(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if step == 40:
        x = x.clone()
        x.view(len(x), -1)[0, 0] = float("nan")
    return x, y


def wild(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x * 500, y) if step % 60 == 45 else (x, y)


def wild_targets(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x, y + 300) if step % 60 == 45 else (x, y)


def shuffled(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]


def noise(y: Tensor) -> Tensor:
    return torch.randint(0, int(y.max()) + 1, y.shape, generator=torch.Generator().manual_seed(1))


def one(y: Tensor) -> Tensor:
    return torch.full_like(y, 1)


def rare(y: Tensor) -> Tensor:
    keep = torch.rand(y.shape[:1], generator=torch.Generator().manual_seed(2)) < 0.04
    return torch.where(keep.view(-1, *[1] * (y.ndim - 1)), y, torch.zeros_like(y))


def shifted(y: Tensor) -> Tensor:
    return y + 1


faulty("features of hundreds", "input-unscaled", "blobs-mlp waves-gru digits-mlp signals-cnn", {**SGD, "scale": 300.0})
faulty("features in thousands, adam", "input-unscaled", "smooth-mlp sums-lstm labels-mlp", {"scale": 3000.0})
faulty("features of 1e-4", "input-unscaled", "digits-cnn labels-mlp", {**SGD, "scale": 1e-4})
faulty("far from the centre", "input-unscaled", "cancer-mlp digits-residual diabetes-mlp", {**SGD, "shift": 500.0})
faulty(
    "targets in hundreds",
    "target-unscaled",
    "smooth-mlp signals-cnn sums-lstm",
    {"target_scale": 200.0, "target_shift": 400.0},
)
faulty("targets in hundreds, sgd", "target-unscaled", "smooth-mlp diabetes-mlp", {**SGD, "target_scale": 150.0})
faulty("a NaN in the data", "non-finite-input", "blobs-mlp digits-cnn digits-mlp sums-lstm", {"poison": broken})
faulty("one label", "labels-constant", "blobs-mlp text-gru counts-transformer labels-mlp", {"labels": one})
faulty(
    "validation not scaled", "train-val-mismatch", "digits-cnn cancer-mlp digits-mlp signals-cnn", {"val_scale": 40.0}
)
faulty(
    "validation labels from one",
    "train-val-mismatch",
    "blobs-mlp counts-transformer",
    {"val_labels": lambda y: (y + 1).clamp(max=int(y.max()))},
)
faulty(
    "sorted by label", "data-order", "blobs-mlp digits-cnn waves-gru digits-mlp digits-residual", {"order": "sorted"}
)
faulty("sorted by target", "data-order", "smooth-mlp sums-lstm", {"order": "sorted"})
faulty("labels shuffled", "data-unlearnable", "blobs-mlp smooth-mlp digits-mlp signals-cnn", {"labels": shuffled})
faulty("labels of noise", "data-unlearnable", "waves-gru digits-residual", {"labels": noise})
faulty("batches of 500", "bad-batch", "blobs-mlp digits-cnn digits-mlp", {"poison": wild})
faulty("targets of 300", "bad-batch", "smooth-mlp signals-cnn diabetes-mlp", {"poison": wild_targets})
faulty(
    "all but four in a hundred",
    "class-imbalance",
    "blobs-mlp waves-gru digits-mlp counts-transformer",
    {"labels": rare},
)
faulty("slow data", "input-bound", "smooth-mlp digits-cnn labels-mlp signals-cnn", {"wait": 0.02, "steps": 60})
