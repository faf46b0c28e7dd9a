"""The gradient that reaches the outputs against what the outputs lack: whether the loss goes down towards the targets,
and whether it is summed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CERTAIN = 0.5  # cosine between the two, beyond which they are the same up to a factor
MOST_CLASSES = 4096


@torch.no_grad()
def towards(outputs: Any, targets: Any, slope: Tensor) -> tuple[float, float] | None:
    """The cosine between the loss's gradient at the outputs and the outputs' error, and the gradient per error.

        error = softmax(z) - onehot(y)    for class indices
        error = sigmoid(z) - y            for targets from 0 to 1, if that fits better
        error = z - y                     for any other targets

    Cross-entropy, binary cross-entropy and squared error have gradients of just these forms, others point the same way.
    A cosine below 0 says that the steps lead away from the targets; the gradient per error is 1 / items for a mean, and
    1 for a sum. None where outputs and targets are of no such kind.

    >>> z, y = torch.randn(8, 3, requires_grad=True), torch.arange(8) % 3
    >>> slope, = torch.autograd.grad(-F.cross_entropy(z, y), z)
    >>> [round(x, 3) for x in towards(z, y, slope)]
    [-1.0, -0.125]
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or slope.shape != outputs.shape:
        return None
    z, g = outputs.detach().float(), slope.float()
    if not targets.is_floating_point():
        error = _of_classes(z, targets)
        errors = [] if error is None else [error]
    elif targets.shape == outputs.shape and not targets.requires_grad:
        y = targets.detach().float()
        errors = [z - y]
        if bool(((y >= 0) & (y <= 1)).all()):
            errors.append(z.sigmoid() - y)
    else:
        return None
    best: tuple[float, float] | None = None
    for error in errors:
        both, own = float((g * error).sum()), float((error * error).sum())
        size = (float((g * g).sum()) * own) ** 0.5
        if size and (best is None or abs(both / size) > abs(best[0])):
            best = both / size, both / own
    return best


def aligned(outputs: Any, targets: Any) -> tuple[Any, Any]:
    """Outputs `[..., classes]` and class indices `[...]` as a loss over classes takes them; all others as they are.

    >>> z, y = aligned(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long))
    >>> z.shape, y.shape
    (torch.Size([10, 3]), torch.Size([10]))
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or targets.is_floating_point():
        return outputs, targets
    if outputs.ndim > 2 and outputs.shape[:-1] == targets.shape:
        return outputs.flatten(0, -2), targets.flatten()
    if outputs.ndim == 2 and targets.ndim > 1 and targets.numel() == len(outputs):
        return outputs, targets.flatten()
    return outputs, targets


def _of_classes(z: Tensor, y: Tensor) -> Tensor | None:
    """Probabilities less the right classes; what lies outside the classes counts as ignored."""
    if z.ndim < 2 or z.shape[1] > MOST_CLASSES or z.shape[1] < 2 or y.shape != z.shape[:1] + z.shape[2:]:
        return None
    inside = (y >= 0) & (y < z.shape[1])
    hot = F.one_hot(torch.where(inside, y, 0).long(), z.shape[1]).movedim(-1, 1)
    return (z.softmax(1) - hot) * inside.unsqueeze(1)
