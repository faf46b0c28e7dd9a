"""Parameters of one shape as a stack of matrices, to be worked on together."""

# torch.linalg's functions have no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.precondition import Member

AT_ONCE = 1 << 24  # elements that are worked on together: the memory that is needed besides

log = logging.getLogger("surefoot")


def alike(members: Sequence[Member], *also: Sequence[Any]) -> Iterator[list[int]]:
    """The members in portions of one shape, dtype and device, and of equal values in each of `also`."""
    kinds: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, member in enumerate(members):
        more = tuple(values[i] for values in also)
        kinds[member.g.shape, member.g.dtype, member.g.device, more].append(i)
    for kind, places in kinds.items():
        size = max(1, AT_ONCE // max(1, kind[0].numel()))
        yield from (places[i : i + size] for i in range(0, len(places), size))


def matrices(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors [out, ...] of one shape as a stack [k, out, rest]; vectors as [k, size, 1]."""
    stack = torch.stack([t.reshape(len(t), -1) if t.ndim > 1 else t.reshape(-1, 1) for t in tensors])
    return stack if stack.dtype == torch.float64 else stack.float()


def put(values: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write a stack's matrices into tensors."""
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value.view(tensor.shape))


def gram(g: Tensor) -> Tensor:
    """G G^T of a stack, of which only the blocks on and above the diagonal are worked out."""
    n = g.shape[-2]
    if n < 1024 or g.device.type != "cpu":
        return g @ g.mT
    out, cuts = g.new_empty(*g.shape[:-1], n), [n * i // 4 for i in range(5)]
    for i in range(4):
        rows = slice(cuts[i], cuts[i + 1])
        after = slice(cuts[i], n)
        out[..., rows, after] = g[..., rows, :] @ g[..., after, :].mT
        out[..., after, rows] = out[..., rows, after].mT
    return out


def eigenvectors(grams: Tensor) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues, falling, and eigenvectors of a stack of symmetric matrices; None where they cannot be found."""
    try:
        values, vectors = torch.linalg.eigh(grams)
    except torch.linalg.LinAlgError as error:
        log.warning(f"eigenvectors of a preconditioner could not be found, the old ones are kept: {error}")
        return None
    return values.flip(-1), vectors.flip(-1)
