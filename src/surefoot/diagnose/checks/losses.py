"""What is known of torch's losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.watch.graph import REARRANGING, SELECTING, behind, operation

CROSS_ENTROPY, NLL, BCE, BCE_LOGITS = "cross-entropy", "negative log-likelihood", "BCE", "BCE with logits"
POISSON = "Poisson likelihood"
REGRESSION = ("squared error", "absolute error", "Huber loss", "smooth L1 loss")
KINDS: dict[Any, str] = {
    nn.CrossEntropyLoss: CROSS_ENTROPY,
    F.cross_entropy: CROSS_ENTROPY,
    nn.NLLLoss: NLL,
    F.nll_loss: NLL,
    nn.BCELoss: BCE,
    F.binary_cross_entropy: BCE,
    nn.BCEWithLogitsLoss: BCE_LOGITS,
    F.binary_cross_entropy_with_logits: BCE_LOGITS,
    nn.MSELoss: REGRESSION[0],
    F.mse_loss: REGRESSION[0],
    nn.L1Loss: REGRESSION[1],
    F.l1_loss: REGRESSION[1],
    nn.HuberLoss: REGRESSION[2],
    F.huber_loss: REGRESSION[2],
    nn.PoissonNLLLoss: POISSON,
    F.poisson_nll_loss: POISSON,
    nn.SmoothL1Loss: REGRESSION[3],
    F.smooth_l1_loss: REGRESSION[3],
}
NAMES = {kind: loss.__name__ for loss, kind in KINDS.items() if isinstance(loss, type)}
KERNELS = {
    "NllLoss": NLL, "NllLoss2D": NLL, "NllLossNd": NLL, "BinaryCrossEntropy": BCE,
    "BinaryCrossEntropyWithLogits": BCE_LOGITS, "MseLoss": REGRESSION[0], "HuberLoss": REGRESSION[2],
    "SmoothL1Loss": REGRESSION[3],
}  # fmt: skip
POWERS = {"Pow": REGRESSION[0], "Abs": REGRESSION[1]}  # of a difference
PICKING = {"Expand", "Index", "IndexSelect", "MaskedSelect"}  # some items, or each several times
FAR = 48  # nodes of autograd's graph that are looked at


def kind_in_graph(loss: Any, outputs: Any) -> str:
    """Which loss was computed on some outputs as they are, by what autograd has noted between them; "" for any that is
    unknown, and where several are computed.

    >>> z = torch.randn(4, 3, requires_grad=True) * 2
    >>> kind_in_graph(-F.cross_entropy(z, torch.zeros(4, dtype=torch.long)), z)
    'cross-entropy'
    """
    end: Any = getattr(outputs, "grad_fn", None)
    waiting: list[Any] = [getattr(loss, "grad_fn", None)]
    found: list[str] = []
    for _ in range(FAR if end is not None else 0):
        node = waiting.pop(0) if waiting else None
        if node is None:
            break
        name, inputs = operation(node), [following for following, _ in node.next_functions]
        kind = KERNELS.get(name, "")
        if name in POWERS and any(operation(each) == "Sub" for each in inputs):
            kind = POWERS[name]
            inputs = [deeper for deeper, _ in inputs[0].next_functions]
        if not kind:
            waiting += [each for each in inputs if each is not None]
            continue
        made = [behind(each, REARRANGING | PICKING) for each in inputs]
        if kind == NLL and operation(made[0]) == "LogSoftmax" and made[0] is not end:
            kind, made = CROSS_ENTROPY, [behind(made[0].next_functions[0][0])]
        found.append(kind if any(each is end or each is behind(end) for each in made) else "")
    return found[0] if len(found) == 1 else ""


def one_unit(outputs: Any) -> bool:
    """Whether outputs come from a softmax over one unit: they are 1, whatever the model computes.

    >>> one_unit(torch.zeros(4, 1, requires_grad=True).softmax(1).squeeze(1))
    True
    """
    node = behind(getattr(outputs, "grad_fn", None), SELECTING)
    if node is None or operation(node) not in ("Softmax", "LogSoftmax"):
        return False
    shape, dim = node._input_metadata[0].shape, node._saved_dim
    dim = dim - 2**64 if dim >= 2**63 else dim  # autograd hands a negative one out as unsigned
    return len(shape) > 0 and shape[dim] == 1


def kind_of(loss: Any) -> str:
    """Which of torch's losses one is, by itself or by the name of its kind; "" for any other."""
    if isinstance(loss, str):
        return loss
    if isinstance(loss, nn.Module):
        return KINDS.get(type(loss), "")
    try:
        return KINDS.get(loss, "")
    except TypeError:  # unhashable
        return ""


def name_of(kind: str) -> str:
    """A kind of loss by its name in torch, which is the same in all languages.

    >>> name_of("squared error")
    'MSELoss'
    """
    return NAMES.get(kind, kind)


def last_operation(outputs: Any) -> str:
    """The name of the operation that made a tensor, such as "softmax"; "" where autograd does not tell."""
    return operation(behind(getattr(outputs, "grad_fn", None), SELECTING)).lower()


def clamped(outputs: Tensor) -> tuple[float, float]:
    """The limits that a clamp has set."""
    node: Any = behind(outputs.grad_fn, SELECTING)
    low, high = (getattr(node, name, None) for name in ("_saved_min", "_saved_max"))
    return -float("inf") if low is None else float(low), float("inf") if high is None else float(high)


def classes_first(outputs: Tensor) -> Tensor:
    """Outputs [N, C, ...] as [C, everything else]."""
    return outputs.detach().float().movedim(1, 0).flatten(1) if outputs.ndim > 1 else outputs.detach().float()[:, None]


def finite(t: Tensor) -> Tensor:
    """The finite values of a tensor, as float32 (float64 stays)."""
    values = t.detach().flatten()
    values = values if values.dtype == torch.float64 else values.float()
    return values[torch.isfinite(values)]
