"""Orthogonalizing matrices by Newton-Schulz iteration: the matrix half of Muon.

Source: Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/. Each step is a polynomial of X,

    X <- a X + (b G + c G G) X,    G = X X^T,

which takes every singular value s to a s + b s^3 + c s^5. With Keller Jordan's coefficients five steps bring all that
are not tiny near 1, between 0.68 and 1.14; they do not converge.

What makes it quick:

- **The Gram form.** The steps' factors P = a I + b G + c G G commute with G, so several steps can be taken with
  matrices of the small side alone, G <- P G P and Q <- P Q, and X is multiplied by Q once. An error e in the small
  eigenvalues of G grows by a^2 in each step, so G is computed anew from X after a few; without that, half precision
  explodes.
- **What is small stays small.** Q is kept as q I + S, so that rounding does not touch the multiple q of the identity:
  it carries the directions with small singular values.
- **Half of a symmetric matrix.** Large Gram matrices are kept as the blocks on and above the diagonal; two blocks a
  side save a quarter of the work, four save 3/8.
"""

# torch.linalg's functions have no annotations
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from surefoot.engine.matrix.blocks import (
    Blocks,
    add_to_diagonal,
    diagonal,
    diagonal_of_product,
    gram,
    product,
    times,
)
from surefoot.engine.rounding import HALVES
from surefoot.errors import UserError

MUON = (3.4445, -4.7750, 2.0315)
SLENDER = 1.5  # how many times longer than wide a matrix is from which on the Gram form is quicker
RESTARTS = (3, 2)  # steps in the Gram form before G is computed anew: at first, and later on
HALF = 128  # the small side from which on half precision is quicker than single on a CPU that can multiply in it


def orthogonalize(
    stack: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = MUON,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """For each matrix U S V^T of a stack [k, n, m] about U V^T, in the precision that it is computed in.

    Args:
        stack: any strides, any floating dtype; it is not changed
        steps: of the iteration
        coefficients: a, b, c
        eps: what a matrix is divided by, if its Frobenius norm is less
        dtype: what to compute in; None: what is quick on the device, see `precision`

    Raises:
        UserError: for a stack of other dimensions, and for arguments out of range

    >>> stack = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]]])
    >>> orthogonalize(stack, steps=20, coefficients=(1.5, -0.5, 0.0))
    tensor([[[1., 0., 0.],
             [0., 0., 1.]]])
    """
    if stack.dim() != 3 or not stack.is_floating_point():
        raise UserError(f"a stack of real matrices [k, n, m] is needed, not {stack.dtype} {list(stack.shape)}")
    if steps < 0 or len(coefficients) != 3 or not eps > 0:
        raise UserError(f"steps={steps}, coefficients={coefficients}, eps={eps}: needed are >= 0, three numbers, > 0")
    dtype = dtype or precision(stack)
    n, m = stack.shape[1:]
    small, large = min(n, m), max(n, m)
    parts, dim = parts_of(small, stack.device), 1 if n <= m else 2
    norms = frobenius(stack).clamp(min=eps)
    x = [torch.div(part, norms, out=part.new_empty(part.shape, dtype=dtype)) for part in stack.tensor_split(parts, dim)]
    for several in runs(steps, large > SLENDER * small):
        x = advance(x, n <= m, several, coefficients)
    return x[0] if parts == 1 else torch.cat(x, dim)


def scale(shape: tuple[int, int] | torch.Size, mode: str | None = None) -> float:
    """What the orthogonal direction of an n x m matrix is multiplied by beside the learning rate.

    Args:
        mode: "original" (or None, as in torch.optim.Muon): sqrt(max(1, n / m)), Keller Jordan 2024;
            "match_rms_adamw": 0.2 sqrt(max(n, m)), so that a step is as large as AdamW's, Liu et al. 2025
            (arXiv:2502.16982), equation 4

    >>> scale((2048, 512)), scale((100, 25), "match_rms_adamw")
    (2.0, 2.0)
    """
    n, m = shape
    if mode is None or mode == "original":
        return math.sqrt(max(1.0, n / m))
    if mode == "match_rms_adamw":
        return 0.2 * math.sqrt(max(n, m))
    raise UserError(f'unknown scale {mode!r}: known are "original", "match_rms_adamw" and None')


def precision(stack: Tensor) -> torch.dtype:
    """What to compute in: bfloat16 where the device multiplies it quicker than float32; float64 stays.

    Measured with 2 cores of an AMD EPYC 9004 (AVX512_BF16): float32 takes 1.7 times as long from 512 x 512 on, 1.4
    times as long at 64 x 64, where its smaller errors are worth it.
    """
    if stack.dtype == torch.float64:
        return torch.float64
    if stack.device.type == "cpu":
        able = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
        return torch.bfloat16 if able and min(stack.shape[1:]) >= HALF else torch.float32
    return torch.bfloat16 if stack.device.type == "cuda" else torch.float32


def parts_of(small: int, device: torch.device) -> int:
    """Into how many blocks a side a Gram matrix is split. Measured as `precision`; a GPU has not been."""
    if device.type != "cpu" or small < 512:
        return 1
    return 2 if small < 1024 else 4


def runs(steps: int, slender: bool) -> Iterator[int]:
    """How many steps are taken in a row from one Gram matrix of X; for nearly square matrices one."""
    first, later = RESTARTS if slender else (1, 1)
    while steps > 0:
        yield min(first, steps)
        steps, first = steps - first, later


def frobenius(stack: Tensor) -> Tensor:
    """The norms [k, 1, 1], also of matrices whose squares exceed single precision."""
    wide = torch.promote_types(stack.dtype, torch.float32)
    rows = torch.linalg.vector_norm(stack, dim=2, dtype=wide)
    if stack.device.type == "cpu" and not rows.isfinite().all():  # ten times slower, and seldom needed
        rows = torch.linalg.vector_norm(stack, dim=2, dtype=torch.float64)
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).to(wide)[:, None, None]


def advance(x: list[Tensor], left: bool, steps: int, coefficients: tuple[float, float, float]) -> list[Tensor]:
    """Some steps from one Gram matrix.

    Args:
        x: blocks of rows of X, [k, n / parts, m], or, where it is multiplied from the right, of columns
        left: whether the small side is that of the rows
    """
    a, b, c = coefficients
    g = gram(x, left)
    q, s = a, Blocks()  # Q = q I + S
    lost: list[Tensor] = []
    for i in range(steps):
        r = product(g, g, plus=g, beta=b, alpha=c)  # P = a I + R
        if i == 0:
            s = r
        else:  # P Q: the multiple of the identity is a q, the rest q R + P S
            p, old = add_to_diagonal(r, a), s
            s = product(p, old, plus=r, beta=q)
            if i + 1 == steps and x[0].dtype in HALVES:
                lost = [d - t for d, t in zip(diagonal_of_product(p, old, plus=r, beta=q), diagonal(s), strict=True)]
            q *= a
        if i + 1 < steps:
            w = product(g, r, plus=g, beta=a)  # G P
            g = product(w, r, plus=w, beta=a)
    moved = times(s, x, left, q)
    for out, part, rest in zip(moved, x, lost, strict=False):
        out.addcmul_(part, rest.to(out.dtype).unsqueeze(2 if left else 1))
    return moved
