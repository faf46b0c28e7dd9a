"""Inputs and targets by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.diagnose.checks.found import Found, some
from surefoot.diagnose.checks.losses import REGRESSION, finite, kind_of
from surefoot.diagnose.knowledge import sentence
from surefoot.task.trees import tensors

LARGE = 20.0  # root mean square of a feature from which on it is far from unit scale
SMALL = 0.01
ITEMS = 16  # fewer say nothing of a scale
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)  # pyright: ignore


def non_finite(batch: Any, validation: bool = False) -> list[Found]:
    """NaN and infinity in any tensor of a batch."""
    bad = {
        place: int((~torch.isfinite(t)).sum()) for place, t in tensors(batch) if t.is_floating_point() or t.is_complex()
    }
    bad = {place: count for place, count in bad.items() if count}
    if not bad:
        return []
    name = sentence("validation-batch" if validation else "batch")
    places = [sentence("at-place", batch=name, place=place) if place else name for place in bad]
    text = sentence("non-finite" if len(bad) == 1 else "non-finite-places", places=some(places))
    where = tuple(f"{'val batch' if validation else 'batch'} {place}".strip() for place in bad)
    return [Found("non-finite-input", text, where, {"non_finite": sum(bad.values())})]


def constant_labels(targets: Sequence[Any]) -> list[Found]:
    """One value only in the targets of several batches. Fewer than 16 of them say nothing."""
    parts = [t.detach().flatten() for t in targets if isinstance(t, Tensor) and t.numel()]
    if not parts or sum(len(part) for part in parts) < ITEMS:
        return []
    first = parts[0][0]
    if not all(bool((part == first).all()) for part in parts):
        return []
    value = first.item()
    evidence = {"target_low": value, "target_high": value, "targets": sum(len(part) for part in parts)}
    return [Found("labels-constant", sentence("constant-labels", value=value), (), evidence)]


def unscaled_inputs(inputs: Any, model: nn.Module | None = None) -> list[Found]:
    """Features far from unit scale: their root mean square over the batch is above 20, or that of all below 0.01.

    Whole numbers (tokens, categories) are no features; and a model that begins with a normalization takes any scale.
    """
    if model is not None and _begins_with_norm(model):
        return []
    for place, t in tensors(inputs):
        if not t.is_floating_point() or t.ndim < 2 or len(t) < ITEMS:
            continue
        by_feature = (
            t.detach().double().flatten(1) if t.ndim == 2 else t.detach().double().movedim(1, -1).flatten(0, -2)
        )
        sizes = by_feature.square().mean(0).sqrt()
        sizes = sizes[torch.isfinite(sizes)]
        if not sizes.numel() or not float(sizes.max()):
            continue
        low, high = float(sizes.min()), float(sizes.max())
        if high <= LARGE and high >= SMALL:
            continue
        name = sentence("inputs-at-place", place=place) if place else sentence("inputs")
        text = sentence("unscaled-inputs", inputs=name, high=high)
        where = (f"inputs {place}".strip(),)
        return [Found("input-unscaled", text, where, {"feature_size_high": high, "feature_size_low": low})]
    return []


def unscaled_targets(targets: Any, loss: Any) -> list[Found]:
    """Targets of a regression far from unit scale, or from 0 by many times their spread."""
    if not isinstance(targets, Tensor) or not targets.is_floating_point() or kind_of(loss) not in REGRESSION:
        return []
    values = finite(targets).double()
    if len(values) < ITEMS:
        return []
    mean, spread = float(values.mean()), float(values.std())
    if spread == 0 or (SMALL <= spread <= LARGE and abs(mean) <= max(LARGE, LARGE * spread)):
        return []
    text = sentence("unscaled-targets", mean=mean, spread=spread)
    return [Found("target-unscaled", text, (), {"target_mean": mean, "target_spread": spread})]


def _begins_with_norm(model: nn.Module) -> bool:
    leaves = (m for m in model.modules() if not list(m.children()))
    first = next((m for m in leaves if not isinstance(m, nn.Identity | nn.Flatten | nn.Unflatten)), None)
    return isinstance(first, NORMS)
