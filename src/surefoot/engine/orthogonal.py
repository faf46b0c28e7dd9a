"""TEMPORARY."""

import math

import torch


def orthogonalize(stack, steps=5, coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7, dtype=None):
    a, b, c = coefficients
    x = stack.float() if stack.dtype != torch.float64 else stack
    t = x.size(-2) > x.size(-1)
    if t:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        A = x @ x.mT
        B = b * A + c * (A @ A)
        x = a * x + B @ x
    return (x.mT if t else x).contiguous().to(stack.dtype)


def scale(shape, mode):
    n, m = shape
    if mode is None or mode == "original":
        return math.sqrt(max(1, n / m))
    return 0.2 * math.sqrt(max(n, m))
