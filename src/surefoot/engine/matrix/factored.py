"""Adafactor's directions: second moments of matrices kept as the means of their rows and of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.precondition import Member


class Factored:
    """Makes Adafactor's updates, rate included.

    Source: Shazeer & Stern 2018 (arXiv:1804.04235), algorithm 4 for matrices and 5 for vectors, with what torch.optim
    adds: a rate above, instead of fixed, and the least second moment in place of one added to it.
    """

    def shapes(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """What is kept for a parameter: of matrices, and of stacks of them, the means of rows and columns."""
        if p.ndim < 2:
            return {"variance": tuple(p.shape)}
        return {"row_var": (*p.shape[:-1], 1), "col_var": (*p.shape[:-2], 1, p.shape[-1])}

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> list[Tensor]:
        return [self._direction(member, group) for member in members]

    def _direction(self, member: Member, group: Mapping[str, Any]) -> Tensor:
        p, g, kept, t = member.p, member.g, member.kept, member.t
        least = torch.finfo(p.dtype).eps if group["eps"][0] is None else group["eps"][0]
        for name, shape in self.shapes(p, group).items():
            if name not in kept:
                kept[name] = p.new_zeros(shape)
        share = t ** group["beta2_decay"]
        if p.ndim < 2:
            second = kept["variance"].lerp_(g * g, share)
        else:
            row = kept["row_var"].lerp_(_mean_square(g, -1), share)
            column = kept["col_var"].lerp_(_mean_square(g, -2), share)
            second = row @ column / row.mean(-2, keepdim=True).clamp(min=least)
        u = second.clamp(min=least * least).rsqrt() * g
        rate = _rms(p).clamp(min=group["eps"][1]) * min(member.lr, t**-0.5)
        return u * (rate / (_rms(u) / group["d"]).clamp(min=1))


def _mean_square(g: Tensor, dim: int) -> Tensor:
    """The mean of the squares along a dimension, which stays."""
    return torch.linalg.vector_norm(g, dim=dim, keepdim=True).square() / max(1, g.shape[dim])  # pyright: ignore


def _rms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x) / max(1, x.numel()) ** 0.5  # pyright: ignore[reportUnknownVariableType]
