"""Muon's directions: the momentum of every matrix made orthogonal, all matrices of a shape at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.matrix.newton_schulz import orthogonalize, scale
from surefoot.engine.precondition import Member

AT_ONCE = 1 << 24  # elements that are worked on together: the memory that is needed besides


class Orthogonal:
    """Makes Muon's updates, the factor for the matrix's shape included.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); a parameter [out, ...] is a matrix [out, rest], and
    one with `parts` is so many matrices, one below the other.
    """

    def shapes(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {}

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> list[Tensor]:
        beta, parts = float(group["momentum"]), group["parts"] or ()
        # what Nesterov's momentum, or else the momentum itself, is of gradient and old momentum
        shares = ((1 - beta) * (1 + beta), beta * beta) if group["nesterov"] else (1 - beta, beta)
        alike: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for i, member in enumerate(members):
            number = parts[member.place] if parts else 1
            alike[number, len(member.p) // number, member.p[0].numel(), member.g.dtype, member.g.device].append(i)
        found: dict[int, Tensor] = {}
        for (number, rows, columns, dtype, device), places in alike.items():
            for some in _portions(places, AT_ONCE // (number * rows * columns)):
                stack = torch.empty((len(some), number * rows, columns), dtype=dtype, device=device)
                for matrix, i in zip(stack, some, strict=True):
                    member = members[i]
                    matrix.copy_(member.kept["momentum_buffer"].reshape(matrix.shape)).mul_(shares[1])
                    matrix.add_(member.g.reshape(matrix.shape), alpha=shares[0])
                whole = stack.view(len(some) * number, rows, columns)
                made = orthogonalize(whole, group["ns_steps"], group["ns_coefficients"], group["eps"])
                made = made.to(dtype).mul_(scale((rows, columns), group["adjust_lr_fn"])).view(stack.shape)
                found.update({i: d.view(members[i].p.shape) for d, i in zip(made, some, strict=True)})
        return [found[i] for i in range(len(members))]


def _portions(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    size = max(1, size)
    return (places[i : i + size] for i in range(0, len(places), size))
