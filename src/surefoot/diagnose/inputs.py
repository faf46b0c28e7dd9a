"""Batches as a probe takes them: given to the model, compared with targets, standardised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.diagnose.checks import shapes
from surefoot.errors import UserError
from surefoot.task.task import described
from surefoot.task.trees import mapped, tensors
from surefoot.watch.batches import by_feature

STANDARD = 0.3  # how far means may be from 0, and deviations (their logarithms) from 1


class Compared:
    """The loss of a batch: of what the model returns, against the targets.

    own: whether the loss is not made for this: a criterion that the loop may call with something else
    """

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Any], own: bool = True) -> None:
        self.model, self.loss, self.own = model, loss, own

    def __call__(self, inputs: Any, targets: Any) -> Tensor:
        outputs = called(self.model, inputs)
        if not self.own:
            return self.loss(outputs, targets)
        refusal = UserError(
            "probe: the loss does not take what the model returns for a batch as it is: "
            f"{described(outputs)} against {described(targets)}: give probe(loss=lambda outputs, targets: ...), which "
            "does what the loop does between them"
        )
        if shapes(outputs, targets, self.loss):  # the loop may have made them fit, or the loss broadcasts them
            raise refusal
        try:
            return self.loss(outputs, targets)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise refusal from error


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs. A tuple is its arguments, a dict those that are named, (tuple, dict) both."""
    if isinstance(inputs, Mapping):
        return model(**cast("Mapping[str, Any]", inputs))
    if isinstance(inputs, tuple):
        given = cast("tuple[Any, ...]", inputs)
        if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
            return model(*cast("tuple[Any, ...]", given[0]), **cast("dict[str, Any]", given[1]))
        return model(*given)
    return model(inputs)


def standardised(batches: list[tuple[Any, Any]]) -> list[tuple[Any, Any]] | None:
    """The batches with each feature of their inputs at mean 0 and deviation 1; they themselves where they are so; None
    where they have no features."""
    rows: dict[str, list[Tensor]] = {}
    for inputs, _ in batches:
        for place, t in tensors(inputs):
            if t.is_floating_point() and t.layout == torch.strided and t.ndim and t.numel():
                rows.setdefault(place, []).append(by_feature(t if t.ndim > 1 else t[:, None]).double())
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    for place, parts in rows.items():
        if len({part.shape[1] for part in parts}) > 1:
            continue
        whole = torch.cat(parts)
        mean, std = whole.mean(0), whole.std(0, correction=0)
        use = std > 1e-6 * mean.abs()
        if bool(whole.isfinite().all()) and not near_standard(mean[use], std[use]):
            moments[place] = mean, torch.where(use, std, torch.ones_like(std))

    def one(inputs: Any) -> Any:
        places = iter([place for place, _ in tensors(inputs)])

        def scale(t: Tensor) -> Tensor:
            found = moments.get(next(places))
            if found is None:
                return t
            mean, std = (v.reshape(-1, *[1] * (t.ndim - 2)) if t.ndim > 3 else v for v in found)
            return ((t.double() - mean) / std).to(t.dtype)

        return mapped(inputs, scale)

    if not moments:
        return batches if rows else None
    return [(one(inputs), targets) for inputs, targets in batches]


def near_standard(mean: Tensor, std: Tensor) -> bool:
    return bool((mean.abs() < STANDARD).all()) and bool((std.log().abs() < STANDARD).all())
