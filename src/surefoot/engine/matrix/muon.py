"""Muon's directions: the momentum of every matrix made orthogonal, all matrices of a shape at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.matrix.newton_schulz import orthogonalize, scale
from surefoot.engine.matrix.stacks import alike
from surefoot.engine.precondition import Member


class Orthogonal:
    """Makes Muon's updates, the factor for the matrix's shape included.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); a parameter [out, ...] is a matrix [out, rest], and
    one with `parts` is so many matrices, one below the other.
    """

    def shapes(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {}

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> list[Tensor]:
        parts = [group["parts"][member.place] if group["parts"] else 1 for member in members]
        found: dict[int, Tensor] = {}
        for some in alike(members, parts):
            made = self._directions([members[i] for i in some], parts[some[0]], group)
            found.update({i: d.view(members[i].p.shape) for i, d in zip(some, made, strict=True)})
        return [found[i] for i in range(len(members))]

    def _directions(self, members: Sequence[Member], parts: int, group: Mapping[str, Any]) -> Tensor:
        """The directions of parameters of one shape, [k, out, rest]."""
        beta, g = float(group["momentum"]), members[0].g
        # how far Nesterov's momentum, or else the momentum itself, lies from the old one towards the gradient
        share = 1 - beta * beta if group["nesterov"] else 1 - beta
        stack = torch.empty((len(members), len(g), g[0].numel()), dtype=g.dtype, device=g.device)
        for matrix, member in zip(stack, members, strict=True):
            m = member.kept["momentum_buffer"].reshape(matrix.shape)
            torch.lerp(m if m.dtype == g.dtype else m.to(g.dtype), member.g.reshape(matrix.shape), share, out=matrix)
        whole = stack.view(len(members) * parts, len(g) // parts, -1)
        made = orthogonalize(whole, group["ns_steps"], group["ns_coefficients"], group["eps"])
        torch.mul(made, scale(whole.shape[1:], group["adjust_lr_fn"]), out=whole)  # memory that is fresh costs time
        return stack
