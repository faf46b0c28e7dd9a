"""Losses known by their values: whatever code worked them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from surefoot.diagnose.checks.losses import BCE, BCE_LOGITS, CROSS_ENTROPY, NLL, REGRESSION

Function = Callable[[Tensor, Tensor], Tensor]
CLASSES: Mapping[str, Function] = {CROSS_ENTROPY: F.cross_entropy, NLL: F.nll_loss}
NUMBERS: Mapping[str, Function] = {
    REGRESSION[0]: F.mse_loss,
    REGRESSION[1]: F.l1_loss,
    REGRESSION[2]: F.huber_loss,
    BCE_LOGITS: F.binary_cross_entropy_with_logits,
    BCE: F.binary_cross_entropy,
}
NEAR = 1e-4  # of the value


@torch.no_grad()
def kind_by_value(loss: Any, outputs: Any, targets: Any) -> str:
    """Which of torch's losses a value is, as a mean or a sum, also with the opposite sign; "" if none.

    >>> z, y = torch.randn(8, 3), torch.arange(8) % 3
    >>> kind_by_value(-z.log_softmax(1)[range(8), y].mean(), z, y)
    'cross-entropy'
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return ""
    value = abs(float(loss))
    for kind, found in _values(outputs, targets).items():
        if found and any(abs(value - each) < NEAR * each for each in (found, found * len(targets))):
            return kind
    return ""


@torch.no_grad()
def beside(loss: Any, outputs: Any, targets: Any, kind: str) -> tuple[float, bool]:
    """The share of a loss that is not the plain error of the outputs, where that is known: a penalty, say; and whether
    the loss is another one than the plain mean or sum, so that items may weigh differently.

    >>> z, y = torch.zeros(4, 1), torch.ones(4, 1)
    >>> beside(torch.tensor(2.0), z, y, "squared error"), beside(torch.tensor(1.0), z, y, "squared error")
    ((0.5, True), (0.0, False))
    """
    plain = _values(outputs, targets).get(kind)
    if not plain or not isinstance(loss, Tensor) or loss.numel() != 1 or float(loss) <= 0:
        return 0.0, False
    same = _same(loss, plain, targets)
    of_sum = kind in (REGRESSION[0], CROSS_ENTROPY) and not same
    return (max(0.0, 1 - plain / float(loss)) if of_sum else 0.0), not same


@torch.no_grad()
def is_plain(loss: Any, outputs: Any, targets: Any, kind: str) -> bool:
    """Whether a loss is the plain one of a kind, of just these targets."""
    plain = _values(outputs, targets).get(kind)
    return plain is not None and isinstance(loss, Tensor) and loss.numel() == 1 and _same(loss, plain, targets)


def _same(loss: Tensor, plain: float, targets: Tensor) -> bool:
    """Whether a loss is a plain one, as a mean or a sum."""
    return any(abs(float(loss) - each) < 0.02 * abs(each) for each in (plain, plain * len(targets)))


def _values(outputs: Any, targets: Any) -> dict[str, float]:
    """What torch's losses would be, as means."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not outputs.is_floating_point():
        return {}
    z, y = outputs.detach().float(), targets.detach()
    if not y.is_floating_point():
        if z.ndim < 2 or not y.numel() or y.shape != z.shape[:1] + z.shape[2:]:
            return {}
        inside = int(y.min()) >= 0 and int(y.max()) < z.shape[1]
        return {kind: float(loss(z, y.long())) for kind, loss in CLASSES.items()} if inside else {}
    if y.shape != z.shape or not z.numel():
        return {}
    y = y.float()
    units = bool(((y >= 0) & (y <= 1)).all()) and bool(((z >= 0) & (z <= 1)).all())
    return {kind: abs(float(loss(z, y))) for kind, loss in NUMBERS.items() if kind != BCE or units}
