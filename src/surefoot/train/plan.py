"""Where a training stands, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from surefoot.engine.report import Report
from surefoot.errors import UserError
from surefoot.task.recipe import Recipe
from surefoot.train.data import Batches


@dataclass
class Position:
    """Where a training stands: complete epochs, batches into the next one, steps in all, seconds spent."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0


class Pending(NamedTuple):
    """A step whose numbers nobody has read yet, and where its batches stand in the data."""

    step: int
    epoch: int
    batch: int
    loss: Tensor
    report: Report
    lr: float


@dataclass(frozen=True)
class Plan:
    """How long a training is.

    steps, epochs: in all; the epochs of a stream are not known
    an_epoch: steps that an epoch has; not known of a stream
    """

    steps: int
    epochs: float | None
    an_epoch: int | None

    @classmethod
    def of(cls, recipe: Recipe, data: Batches) -> Plan:
        an_epoch = -(-len(data) // recipe.accumulate) if data.sized else None
        if recipe.steps is not None:
            return cls(recipe.steps, recipe.steps / an_epoch if an_epoch else None, an_epoch)
        if an_epoch is None:
            raise UserError("the training data are a stream, which has no epochs: give the recipe steps=")
        return cls(recipe.epochs * an_epoch, recipe.epochs, an_epoch)
