"""Metrics: how good a model is, in numbers that people read.

A metric is a function `metric(outputs, targets)` of one batch that returns `(sum, count)`, so that the value over a
whole data set is exact whatever the batches, or a mean, which is then weighted by the batch's size. Higher is taken
to be better unless the function says `metric.higher_is_better = False`.
"""

from __future__ import annotations

from torch import Tensor

from surefoot.errors import UserError


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[float, int]:
    """The share of right classes.

    Args:
        outputs: scores with the classes in dimension 1, `[N, C, ...]`, as for torch.nn.CrossEntropyLoss; or one logit
            a case, of the targets' own shape, as for torch.nn.BCEWithLogitsLoss
        targets: class numbers `[N, ...]`; or 0 and 1, of the outputs' shape

    Returns:
        (number of right answers, number of answers)

    >>> import torch
    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    (1.0, 2)
    """
    if outputs.shape == targets.shape:
        right = (outputs > 0) == (targets > 0.5)
    elif outputs.ndim == targets.ndim + 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape:
        right = outputs.argmax(1) == targets
    else:
        raise UserError(
            f"accuracy: outputs of shape {list(outputs.shape)} do not fit targets of shape {list(targets.shape)}: "
            "they must be [N, C, ...] and [N, ...], or both the same"
        )
    return float(right.sum()), right.numel()


def squared_error(outputs: Tensor, targets: Tensor) -> tuple[float, int]:
    """The mean squared error; lower is better. Outputs and targets have one shape.

    >>> import torch
    >>> squared_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    (4.0, 2)
    """
    if outputs.shape != targets.shape:
        raise UserError(
            f"squared_error: outputs {list(outputs.shape)} and targets {list(targets.shape)} must have one shape"
        )
    return float((outputs - targets).square().sum()), outputs.numel()


squared_error.higher_is_better = False  # pyright: ignore[reportFunctionMemberAccess]
