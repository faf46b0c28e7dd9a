"""Kronecker factors, sums of products of gradients with themselves, and what SOAP and Shampoo make of them.

Of large ones on a CPU only the blocks on and above the diagonal follow the gradients, which halves the work; `whole`
fills in the rest.
"""

# torch.linalg's functions have no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 256  # rows that are worked out together
LARGE = 512  # the size from which on what is below the diagonal is left out
INDEPENDENT = 0.1  # how far a unit vector must be from those before it for Cholesky's decomposition to be exact enough

log = logging.getLogger("surefoot")


def accumulate(factors: Sequence[Tensor], gradients: Tensor, beta: float) -> None:
    """factor <- beta factor + (1 - beta) G G^T, in place."""
    for factor, g in zip(factors, gradients, strict=True):
        if not _upper(factor):
            factor.addmm_(g, g.mT, beta=beta, alpha=1 - beta)
            continue
        for i in range(0, len(factor), BLOCK):
            factor[i : i + BLOCK, i:].addmm_(g[i : i + BLOCK], g[i:].mT, beta=beta, alpha=1 - beta)


def whole(factors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same factors, with what is below the diagonal filled in."""
    for factor in factors:
        for i in range(BLOCK, len(factor), BLOCK) if _upper(factor) else ():
            factor[i : i + BLOCK, :i].copy_(factor[:i, i : i + BLOCK].mT)
    return factors


def eigenvectors(factors: Tensor) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues of a stack, falling, and eigenvectors as rows; None where they cannot be found."""
    try:
        values, vectors = torch.linalg.eigh(factors)
    except torch.linalg.LinAlgError as error:
        log.warning(f"eigenvectors of a preconditioner could not be found, the old ones are kept: {error}")
        return None
    return values.flip(-1), vectors.mT.flip(-2)


def orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows that span what the first 1, 2, ... n rows of each matrix of a stack do.

    They are Q^T of the rows' QR decomposition, up to signs. Of rows that are nearly orthogonal already, as those of a
    basis are that turned a little, Cholesky's decomposition finds them as well, in half the time: with unit rows B and
    B B^T = R^T R they are R^-T B.
    """
    if not _upper(rows[0]):
        return torch.linalg.qr(rows.mT)[0].mT
    each = [_orthonormal(one) for one in rows]
    return each[0][None] if len(each) == 1 else torch.stack(each)


def _orthonormal(rows: Tensor) -> Tensor:
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    product = torch.empty_like(unit)
    accumulate([product], unit[None], 0.0)
    r, failed = torch.linalg.cholesky_ex(product, upper=True)
    # the error grows with the square of the condition number; R's diagonal, each row's distance from those before
    # it, tells where that is too much
    if failed or not (r.diagonal() > INDEPENDENT).all():
        return torch.linalg.qr(rows.mT)[0].mT
    return torch.linalg.solve_triangular(r, unit.mT, upper=True, left=False).mT  # quicker than from the left


def _upper(factor: Tensor) -> bool:
    return factor.device.type == "cpu" and len(factor) >= LARGE
