"""The outputs and their last operation against the loss and the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.diagnose.checks.found import Found
from surefoot.diagnose.checks.losses import (
    BCE,
    BCE_LOGITS,
    CROSS_ENTROPY,
    NLL,
    POISSON,
    REGRESSION,
    clamped,
    classes_first,
    finite,
    kind_of,
    last_operation,
    name_of,
    one_unit,
)
from surefoot.diagnose.knowledge import sentence

ACTIVATIONS = {"softmax": "softmax", "sigmoid": "sigmoid", "relu": "ReLU", "tanh": "tanh"}  # autograd's names: ours
RANGES = {
    "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, float("inf")), "softplus": (0.0, float("inf")),
    "hardsigmoid": (0.0, 1.0), "hardtanh": (-1.0, 1.0), "softmax": (0.0, 1.0), "exp": (0.0, float("inf"))}  # fmt: skip
FEW = 0.01  # a share of targets that an output may miss: outliers


def activation(outputs: Any, loss: Any) -> list[Found]:
    """An activation that does not belong before this loss, or that is missing before it.

    It is told from the operation that autograd has noted, so an activation inside compiled code is not seen; what the
    negative log-likelihood misses is told from the values. A log-softmax before cross-entropy is no fault.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not outputs.numel():
        return []
    kind, made_by = kind_of(loss), last_operation(outputs)
    name = ACTIVATIONS.get(made_by)
    ours, theirs = {"last_operation": made_by}, {"loss_kind": name_of(kind)}
    if one_unit(outputs):
        return [Found("output-activation", sentence("softmax-of-one"), (), {**ours, "outputs": 1})]
    if kind == CROSS_ENTROPY and outputs.ndim > 1 and outputs.shape[1] == 1:
        return [Found("output-activation", sentence("cross-entropy-of-one"), (), {**theirs, "outputs": 1})]
    if kind in (CROSS_ENTROPY, BCE_LOGITS) and name is not None:
        text = sentence("activation-before-loss", activation=name, loss=sentence(kind))
        return [Found("output-activation", text, (), {**ours, **theirs})]
    if kind == NLL and outputs.ndim > 1:
        off = finite(torch.logsumexp(classes_first(outputs), 0)).abs()
        if off.numel() and float(off.max()) > 0.01:
            evidence = {**theirs, "log_sum": float(off.max())}
            return [Found("output-activation", sentence("no-log-probabilities"), (), evidence)]
    return []


def labels(outputs: Any, targets: Any, loss: Any) -> list[Found]:
    """Targets that do not fit the loss: labels outside the outputs or outside [0, 1], several classes at once for
    cross-entropy, classes for a regression loss."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not targets.numel() or not outputs.ndim:
        return []
    kind = kind_of(loss)
    values = finite(targets)
    if not values.numel():
        return []
    low, high = float(values.min()), float(values.max())
    seen = {"target_low": low, "target_high": high}
    if kind in (CROSS_ENTROPY, NLL) and not targets.is_floating_point():
        return _indices(outputs, targets, loss)
    if kind == CROSS_ENTROPY and targets.shape == outputs.shape and outputs.ndim > 1:
        sums = finite(classes_first(targets).sum(0))
        if sums.numel() and float(sums.max()) > 1.01 and low >= 0:
            text = sentence("several-classes", total=float(sums.max()))
            return [Found("loss-mismatch", text, (), {**seen, "target_sum": float(sums.max())})]
    if kind in (BCE, BCE_LOGITS) and (low < 0 or high > 1):
        text = sentence("outside-0-to-1", low=low, high=high, loss=sentence(kind))
        return [Found("loss-mismatch", text, (), seen)]
    if kind == POISSON and low < 0:
        return [Found("loss-mismatch", sentence("negative-counts", low=low), (), seen)]
    if kind in REGRESSION and _indices_for(outputs, targets):
        text = sentence("class-numbers-as-values", outputs=outputs.shape[1], loss=sentence(kind))
        return [Found("loss-mismatch", text, (), seen)]
    if kind in REGRESSION and _one_hot(outputs, targets):
        return [Found("loss-mismatch", sentence("one-hot-as-values", loss=sentence(kind)), (), seen)]
    if (
        kind == REGRESSION[1]
        and len(values) >= 32
        and {low, high} == {0.0, 1.0}
        and bool(((values == 0) | (values == 1)).all())
    ):
        return [Found("loss-mismatch", sentence("bits-by-absolute-error"), (), seen)]
    return []


def _indices(outputs: Tensor, targets: Tensor, loss: Any) -> list[Found]:
    """Class numbers that the outputs do not have."""
    count = outputs.shape[1] if outputs.ndim > 1 else outputs.shape[0]
    counted = targets[targets != getattr(loss, "ignore_index", -100)]
    if not counted.numel() or (int(counted.min()) >= 0 and int(counted.max()) < count):
        return []
    low, high = int(counted.min()), int(counted.max())
    text = sentence(
        "labels-not-from-0" if high - low < count else "too-few-outputs",
        low=low, high=high, outputs=count, last=count - 1,
    )  # fmt: skip
    return [Found("loss-mismatch", text, (), {"target_low": low, "target_high": high, "outputs": count})]


def _indices_for(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are class numbers, one an item, and outputs have a column for each."""
    if outputs.ndim != 2 or outputs.shape[1] < 3 or targets.numel() != len(outputs) or targets.is_floating_point():
        return False
    return bool((targets >= 0).all()) and int(targets.max()) < outputs.shape[1]


def _one_hot(outputs: Tensor, targets: Tensor) -> bool:
    if targets.ndim != 2 or targets.shape[1] < 2 or targets.shape != outputs.shape or len(targets) < 8:
        return False
    whole = targets.detach()
    return bool((((whole == 0) | (whole == 1)).all() and (whole.sum(1) == 1).all()).item())


def reach(outputs: Any, targets: Any, loss: Any) -> list[Found]:
    """Targets that the last operation cannot produce, such as negative ones after a ReLU."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or kind_of(loss) not in REGRESSION:
        return []
    made_by = last_operation(outputs)
    limits = clamped(outputs) if made_by == "clamp" else RANGES.get(made_by)
    if limits is None:
        return []
    low, high = limits
    values = finite(targets)
    beyond = float(((values < low) | (values > high)).float().mean()) if values.numel() else 0.0
    if beyond <= FEW:
        return []
    text = sentence("out-of-reach", share=beyond, low=low, high=high, operation=made_by)
    seen = {"target_low": float(values.min()), "target_high": float(values.max())}
    return [Found("output-range", text, (), {"out_of_reach": beyond, **seen, "last_operation": made_by})]


def shapes(outputs: Any, targets: Any, loss: Any) -> list[Found]:
    """Outputs and targets of different shapes that broadcast against each other: every output meets every target."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or kind_of(loss) not in REGRESSION:
        return []
    ours, theirs = tuple(outputs.shape), tuple(targets.shape)
    if ours == theirs or not outputs.numel() or not targets.numel() or _indices_for(outputs, targets):
        return []
    text = sentence("different-shapes", outputs=list(ours), targets=list(theirs))
    return [Found("shape-broadcast", text, (), {"output_shape": ours, "target_shape": theirs})]
