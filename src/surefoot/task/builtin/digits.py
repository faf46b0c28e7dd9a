"""Classification of scikit-learn's handwritten digits (1,797 images of 8 x 8 pixels, in the package itself)."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.errors import UserError
from surefoot.task import metrics
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task


def cnn() -> Task:
    """Three convolutions with batch norm."""
    recipe = Recipe(lr=3e-3, weight_decay=1e-2, schedule="linear(0.1, 1, 2) >> cosine", epochs=30, clip_norm=1.0)
    return _task(make_cnn, recipe)


def mlp() -> Task:
    """Two hidden layers."""
    recipe = Recipe(lr=2e-3, weight_decay=1e-2, schedule="cosine", epochs=30)
    return _task(make_mlp, recipe)


def make_cnn() -> nn.Module:
    def block(width_in: int, width: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32, 1), *block(32, 64, 2), *block(64, 64, 2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 4, 10)
    )


def make_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


@cache
def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation data: a fixed stratified split, pixels scaled from -1 to 1, `[N, 1, 8, 8]`."""
    try:
        from sklearn import datasets, model_selection
    except ImportError:
        raise UserError("the digits need scikit-learn: pip install 'surefoot[tasks]'") from None
    bunch = cast(Any, datasets.load_digits())
    split = cast(Any, model_selection.train_test_split)
    parts = split(bunch.images, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0)
    x, x_val, y, y_val = map(torch.as_tensor, parts)
    scale = [(images / 8 - 1).float().unsqueeze(1) for images in (x, x_val)]
    return (scale[0], y.long()), (scale[1], y_val.long())


def _task(model: Any, recipe: Recipe) -> Task:
    train, val = data()
    return Task(model=model, loss=nn.CrossEntropyLoss(), train=train, val=val, metric=metrics.accuracy, recipe=recipe)
