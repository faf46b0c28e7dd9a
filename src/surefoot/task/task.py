"""What is trained: a model, a loss, data and a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from surefoot.errors import UserError
from surefoot.optim.optimizer import is_number
from surefoot.task.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """A model's loss on one batch.

    loss: the mean, ready for backward
    count: how many items (or tokens) the mean is over
    outputs, targets: what the loss compared; None where the task takes its own step
    """

    loss: Tensor
    count: float | Tensor
    outputs: Any = None
    targets: Any = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained.

    A batch is a tuple `(*inputs, targets)`, a dict with the key "targets" whose other entries are the model's keyword
    arguments, or a tensor that is its own target; with a `step`, whatever that takes.

    Args:
        model: a function (or class) that returns a new model
        loss: `loss(outputs, targets)`: the mean over the batch, or `(sum, count)` where items weigh unequally (padding,
            class weights), so that the validation's mean over all batches is exact
        train: training data: a torch Dataset, a tensor or a tuple of tensors with one row an item, or a DataLoader
        val: validation data likewise, or None
        metric: `metric(outputs, targets)`, see `surefoot.metrics`; decides which checkpoint is the best. Without one
            the validation loss decides
        step: `step(model, batch)` instead of forward and loss, returning the mean or `(sum, count)`
        recipe: how it is trained well; what `train` takes where no other recipe is given
        name: what to call it
        source: the file it comes from

    Raises:
        UserError: for a part that is missing or of the wrong kind

    >>> import torch, surefoot as sf
    >>> x = torch.randn(64, 3)
    >>> task = sf.Task(model=lambda: torch.nn.Linear(3, 1), loss=torch.nn.MSELoss(), train=(x, x.sum(1, keepdim=True)))
    >>> task.outcome(task.model(), (x, x.sum(1, keepdim=True))).count
    64
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Any] | None = None
    train: Any = None
    val: Any = None
    metric: Callable[[Any, Any], Any] | None = None
    step: Callable[[nn.Module, Any], Any] | None = None
    recipe: Recipe | None = None
    name: str = ""
    source: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module):
            raise UserError("Task: model must be a function that returns a new model, not a model: use lambda: ...")
        if not callable(cast(object, self.model)):
            raise UserError(f"Task: model must be a function that returns a new model, not {self.model!r}")
        for part in ("loss", "metric", "step"):
            value = getattr(self, part)
            if isinstance(value, type):
                raise UserError(f"Task: {part} is the class {value.__name__}: make one, {part}={value.__name__}()")
            if value is not None and not callable(value):
                raise UserError(f"Task: {part} must be a function, not {value!r}")
        if not isinstance(self.recipe, Recipe | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"Task: recipe must be a sf.Recipe, not {self.recipe!r}")
        if (self.loss is None) == (self.step is None):
            raise UserError("Task: give either loss(outputs, targets) or step(model, batch)")
        if self.step is not None and self.metric is not None:
            raise UserError("Task: a metric needs outputs and targets, and a task with its own step shows none")
        if self.train is None:
            raise UserError("Task: train= is missing: give the training data")
        if self.score == "val/loss" and self.metric is not None:
            raise UserError("Task: a metric must not be called loss, which the record has already")
        if not self.name:
            name = getattr(self.model, "__name__", "task")
            object.__setattr__(self, "name", "task" if name == "<lambda>" else name)

    def outcome(self, model: nn.Module, batch: Any) -> Outcome:
        """The model's loss on a batch."""
        if self.step is not None:
            loss, count = _mean(self.step(model, batch), _rows(batch), "step")
            return Outcome(loss, count)
        assert self.loss is not None  # __post_init__
        args, kwargs, targets = _split(batch)
        outputs = model(*args, **kwargs)
        loss, count = _mean(self.loss(outputs, targets), _rows(targets), "loss")
        return Outcome(loss, count, outputs, targets)

    @property
    def score(self) -> str:
        """The validation result that decides which checkpoint is best, as the record names it."""
        return "val/loss" if self.metric is None else f"val/{getattr(self.metric, '__name__', 'metric')}"

    def better(self, values: Mapping[str, float], than: Mapping[str, float] | None) -> bool:
        """Whether these validation results beat those (None: there are none yet)."""
        merit, other = self.merit(values), None if than is None else self.merit(than)
        return merit is not None and (other is None or merit > other)

    def merit(self, values: Mapping[str, float]) -> float | None:
        """How good these validation results are: the larger the better; None where that is no number."""
        value = values.get(self.score, math.nan)
        high = self.metric is not None and getattr(self.metric, "higher_is_better", True)
        return None if math.isnan(value) else value if high else -value


def _split(batch: Any) -> tuple[Sequence[Any], Mapping[str, Any], Any]:
    """A batch's positional inputs, named inputs and targets."""
    if isinstance(batch, Tensor):
        return (batch,), {}, batch
    if isinstance(batch, Mapping) and "targets" in batch:
        named = dict(cast("Mapping[str, Any]", batch))
        targets = named.pop("targets")
        return (), named, targets
    if isinstance(batch, list | tuple) and batch:
        *inputs, targets = cast("Sequence[Any]", batch)
        return inputs or (targets,), {}, targets
    raise UserError(
        f"a batch must be (inputs, targets), a dict with 'targets', or a tensor, not {described(batch)}: "
        "give the task a step(model, batch) for anything else"
    )


def _rows(batch: Any) -> int:
    """How many items a batch, or its targets, hold."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts: Any = list(cast("Mapping[Any, Any]", batch).values()) if isinstance(batch, Mapping) else batch
    return _rows(parts[-1]) if isinstance(parts, list | tuple) and parts else 1


def _mean(value: Any, rows: int, what: str) -> tuple[Tensor, float | Tensor]:
    """A loss in either of its forms as (mean, count)."""
    parts = cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,))
    total, count = parts[0] if parts else None, parts[-1] if len(parts) == 2 else None
    if len(parts) > 2 or not isinstance(total, Tensor) or total.numel() != 1 or not (count is None or is_number(count)):
        raise UserError(f"{what} must return one number as a tensor, or (sum, count); it returned {described(value)}")
    return (total, rows) if count is None else (total / count, count)


def described(value: Any) -> str:
    """What a value is, for an error.

    >>> import torch
    >>> described((torch.zeros(2, 3), {"targets": 1}))
    '(float32 [2, 3], {targets: int})'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return f"{{{', '.join(f'{key}: {described(item)}' for key, item in items)}}}"
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        shown = [described(item) for item in items[:6]] + ["..."] * (len(items) > 6)
        return f"({', '.join(shown)})"
    return type(value).__name__
