"""Symmetric matrices kept as the blocks on and above their diagonals, and products that give such.

All matrices here are polynomials of one Gram matrix, so they commute and their products are symmetric as well: the
blocks below the diagonal need not be computed. With p blocks a side a product takes (p + 1) / 2p of the work of a full
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Blocks = dict[tuple[int, int], Tensor]  # (row, column), row <= column: [k, rows, columns]


def block(matrix: Blocks, i: int, j: int) -> Tensor:
    """The block of a row and a column, on whichever side of the diagonal."""
    return matrix[i, j] if i <= j else matrix[j, i].mT


def parts_of(matrix: Blocks) -> int:
    """How many blocks a side there are."""
    return max(i for i, _ in matrix) + 1


def gram(x: Sequence[Tensor], left: bool) -> Blocks:
    """X X^T of blocks of rows [k, n / parts, m], or X^T X of blocks of columns."""
    pairs = [(i, j) for i in range(len(x)) for j in range(i, len(x))]
    return {(i, j): torch.bmm(x[i], x[j].mT) if left else torch.bmm(x[i].mT, x[j]) for i, j in pairs}


def product(left: Blocks, right: Blocks, plus: Blocks, beta: float, alpha: float = 1.0) -> Blocks:
    """beta PLUS + alpha LEFT RIGHT."""
    out: Blocks = {}
    parts = range(parts_of(left))
    for i, j in left:
        total = torch.baddbmm(plus[i, j], block(left, i, 0), block(right, 0, j), beta=beta, alpha=alpha)
        for k in parts[1:]:
            total.baddbmm_(block(left, i, k), block(right, k, j), alpha=alpha)
        out[i, j] = total
    return out


def add_to_diagonal(matrix: Blocks, number: float) -> Blocks:
    """The matrix plus a multiple of the identity."""
    out: Blocks = {}
    for (i, j), part in matrix.items():
        out[i, j] = part.clone() if i == j else part
        if i == j:  # in half precision torch would round the number before it is added
            entries = out[i, j].diagonal(dim1=-2, dim2=-1)
            entries.copy_(_wide(entries) + number)
    return out


def diagonal(matrix: Blocks) -> list[Tensor]:
    """The diagonal in its blocks, [k, n / parts], in single precision or better."""
    return [_wide(matrix[i, i].diagonal(dim1=-2, dim2=-1)) for i in range(parts_of(matrix))]


def diagonal_of_product(left: Blocks, right: Blocks, plus: Blocks, beta: float) -> list[Tensor]:
    """The diagonal of beta PLUS + LEFT RIGHT, not rounded to what `product` would store it in."""
    parts = range(parts_of(left))
    rows = [sum((_wide(block(left, i, k)) * _wide(block(right, i, k))).sum(-1) for k in parts) for i in parts]
    return [beta * d + row for d, row in zip(diagonal(plus), rows, strict=True)]


def times(matrix: Blocks, x: Sequence[Tensor], left: bool, beta: float) -> list[Tensor]:
    """beta X + MATRIX X of blocks of rows, or beta X + X MATRIX of blocks of columns."""
    out: list[Tensor] = []
    for i, part in enumerate(x):
        total = part
        for j, other in enumerate(x):
            pair = (block(matrix, i, j), other) if left else (other, block(matrix, j, i))
            total = total.baddbmm_(*pair) if j else torch.baddbmm(part, *pair, beta=beta)
        out.append(total)
    return out


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
