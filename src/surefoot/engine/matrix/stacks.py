"""Parameters of one shape as a stack of matrices, to be worked on together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.precondition import Member

AT_ONCE = {"cpu": 1 << 22}  # elements that are worked on together: the memory that is needed besides
A_LOT = 1 << 24  # the same on other devices, where few large operations are what is quick
ALONE = 1 << 16  # elements of a matrix that a CPU multiplies nearly as quickly by itself


def alike(members: Sequence[Member], also: Sequence[Any], alone: bool = False) -> Iterator[list[int]]:
    """The members in portions of one shape, dtype and device, and of equal values in `also`.

    alone: whether, on a CPU, large ones are portions of their own, so that states as large need not be copied
    """
    kinds: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, member in enumerate(members):
        kinds[member.g.shape, member.g.dtype, member.g.device, also[i]].append(i)
    for kind, places in kinds.items():
        elements, device = max(1, kind[0].numel()), kind[2].type
        size = max(1, AT_ONCE.get(device, A_LOT) // elements)
        size = 1 if alone and device == "cpu" and elements >= ALONE else size
        yield from (places[i : i + size] for i in range(0, len(places), size))


def matrices(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors [out, ...] of one shape as a stack [k, out, rest]; vectors as [k, size, 1].

    A stack of one may be a view; `put` takes what was written into a stack to where it belongs, in either case.
    """
    each = [t.reshape(len(t), -1) if t.ndim > 1 else t.reshape(-1, 1) for t in tensors]
    stack = each[0][None] if len(each) == 1 else torch.stack(each)
    return stack if stack.dtype == torch.float64 else stack.float()


def put(values: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write a stack's matrices into tensors."""
    for value, tensor in zip(values, tensors, strict=True):
        if value.data_ptr() != tensor.data_ptr():
            tensor.copy_(value.view(tensor.shape))
