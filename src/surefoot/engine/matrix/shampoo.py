"""Shampoo's directions: the momentum between inverse roots of the gradients' row and column products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.matrix.factors import accumulate, eigenvectors, whole
from surefoot.engine.matrix.stacks import alike, matrices, put
from surefoot.engine.precondition import Member

SIDES = ("row", "column")


class Roots:
    """Makes Shampoo's directions, as long as Adam's.

    Source: Gupta, Koren & Singer 2018 (arXiv:1802.09568), algorithm 1, for matrices; averages in place of sums, inverse
    roots every few steps, and the length of another optimizer's step ("grafting") as Anil et al. 2020
    (arXiv:2002.09018), sections 3 and 4.
    """

    def shapes(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        found = {"exp_avg_sq": tuple(p.shape)}
        if p.ndim > 1:
            for side, size in zip(SIDES, (len(p), p[0].numel()), strict=True):
                if size <= group["max_precond_dim"]:
                    found |= {f"{side}_gram": (size, size), f"{side}_root": (size, size)}
        return found

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for some in alike(members, [member.t for member in members], alone=True):
            made = self._direction([members[i] for i in some], group)
            found.update({i: d.view(members[i].p.shape) for i, d in zip(some, made, strict=True)})
        return [found[i] for i in range(len(members))]

    def _direction(self, members: Sequence[Member], group: Mapping[str, Any]) -> Tensor:
        (beta1, beta2), t, eps = group["betas"], members[0].t, group["eps"]
        g, old = matrices([x.g for x in members]), matrices([x.kept["exp_avg"] for x in members])
        m = old.to(g.dtype).lerp(g, 1 - beta1).div_(1 - beta1**t)  # what the rule will keep, bias corrected
        shapes = self.shapes(members[0].p, group)
        for name, shape in shapes.items():
            for member in members:
                if name not in member.kept:
                    member.kept[name] = g.new_zeros(shape)
        v = matrices([x.kept["exp_avg_sq"] for x in members]).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        put(v, [x.kept["exp_avg_sq"] for x in members])
        adam = m / v.sqrt().div_((1 - beta2**t) ** 0.5).add_(eps)
        sides = [side for side in SIDES if f"{side}_gram" in shapes]
        if not sides:
            return adam
        d = m
        for side in sides:
            root = self._root(members, g if side == "row" else g.mT, side, group, -0.5 / len(sides))
            d = root @ d if side == "row" else d @ root
        return d * (_norm(adam) / _norm(d).clamp(min=torch.finfo(d.dtype).tiny))

    def _root(self, members: Sequence[Member], g: Tensor, side: str, group: Mapping[str, Any], power: float) -> Tensor:
        """The inverse root of the average of G G^T."""
        (_, beta2), t = group["betas"], members[0].t
        factors = [member.kept[f"{side}_gram"] for member in members]
        accumulate(factors, g, beta2)
        roots = [member.kept[f"{side}_root"] for member in members]
        if (t - 1) % group["precondition_frequency"] == 0:
            found = eigenvectors(matrices(whole(factors)) / (1 - beta2**t))
            if found is not None:
                values, vectors = found
                # what is added is a share of the largest: below, single precision knows no eigenvalues
                values = values.clamp(min=0) + group["matrix_eps"] * values[..., :1].clamp(min=1e-30)
                put(vectors.mT @ (vectors * values[..., None] ** power), roots)
        return matrices(roots)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)  # pyright: ignore
