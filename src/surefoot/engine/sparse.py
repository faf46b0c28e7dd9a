"""Sparse gradients, of embeddings say: only the rows that they hold are read and written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of a tensor: elements of its first dimensions, along which a sparse gradient is sparse.

    index: int64 [rows], which
    dims: how many dimensions these are
    """

    index: Tensor
    dims: int

    def take(self, t: Tensor) -> Tensor:
        """A copy of these rows, [rows, ...]."""
        return self._flat(t).index_select(0, self.index)

    def put(self, t: Tensor, values: Tensor) -> None:
        """Write these rows."""
        self._flat(t).index_copy_(0, self.index, values)

    def _flat(self, t: Tensor) -> Tensor:
        return t.view(-1, *t.shape[self.dims :])


def rows(grad: Tensor, p: Tensor) -> tuple[Rows, Tensor] | None:
    """The rows that a sparse gradient holds, each once, and its values there. None: it is not of a kind to tell."""
    if grad.layout != torch.sparse_coo or not p.is_contiguous() or not grad.sparse_dim():
        return None
    grad = grad.coalesce()
    index, places = grad.indices(), grad.shape[: grad.sparse_dim()]
    strides = torch.tensor([math.prod(places[i + 1 :]) for i in range(len(places))], device=index.device)
    return Rows((index * strides[:, None]).sum(0), len(places)), grad.values()
