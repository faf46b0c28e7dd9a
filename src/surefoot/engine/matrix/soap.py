"""SOAP's directions: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.matrix.factors import accumulate, eigenvectors, orthonormal, whole
from surefoot.engine.matrix.stacks import alike, matrices, put
from surefoot.engine.precondition import Member

SIDES = ("row", "column")


class Eigenbasis:
    """Makes SOAP's directions. Both moments are kept in the eigenbasis, which changes every few steps only.

    Source: Vyas et al. 2024 (arXiv:2409.11321), algorithms 3 and 4. As in the authors' code the first gradient only
    starts the eigenbasis. There the first moment is kept in the parameter's own basis and rotated at each step, which
    gives the same numbers for half as much work again.
    """

    def shapes(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        found = {"exp_avg": tuple(p.shape), "exp_avg_sq": tuple(p.shape)}
        if p.ndim > 1:
            for side, size in zip(SIDES, (len(p), p[0].numel()), strict=True):
                if size <= group["max_precond_dim"]:
                    found |= {f"{side}_gram": (size, size), f"{side}_basis": (size, size)}
        return found

    def directions(self, members: Sequence[Member], group: Mapping[str, Any]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for some in alike(members, [member.t for member in members], alone=True):
            made = _Step([members[i] for i in some], group, self.shapes(members[some[0]].p, group)).direction()
            found.update({i: d.view(members[i].p.shape) for i, d in zip(some, made, strict=True)})
        return [found[i] for i in range(len(members))]


class _Step:
    """A step of parameters of one shape."""

    def __init__(
        self, members: Sequence[Member], group: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.members, self.group, self.t = members, group, members[0].t
        self.g = matrices([member.g for member in members])
        for member in members:
            for name, shape in shapes.items():
                if name not in member.kept:
                    member.kept[name] = self.g.new_zeros(shape)
        self.sides = [side for side in SIDES if f"{side}_gram" in shapes]

    def kept(self, name: str) -> Tensor:
        return matrices([member.kept[name] for member in self.members])

    def put(self, name: str, values: Tensor) -> None:
        put(values, [member.kept[name] for member in self.members])

    def factors(self, side: str) -> list[Tensor]:
        return [member.kept[f"{side}_gram"] for member in self.members]

    def direction(self) -> Tensor:
        if self.t <= 1:
            self._measure()
            for side in self.sides:
                found = eigenvectors(matrices(whole(self.factors(side))))
                if found is not None:
                    self.put(f"{side}_basis", found[1])
            return torch.zeros_like(self.g)
        (beta1, beta2), t = self.group["betas"], self.t - 1
        basis = {side: self.kept(f"{side}_basis") for side in self.sides}
        g = _into(self.g, basis)
        m = self.kept("exp_avg").lerp_(g, 1 - beta1)
        v = self.kept("exp_avg_sq").mul_(beta2).addcmul_(g, g, value=1 - beta2)
        d = m / v.sqrt().add_(self.group["eps"])
        d = _out_of(d.mul_((1 - beta2**t) ** 0.5 / (1 - beta1**t)), basis)
        self._measure()
        if t % self.group["precondition_frequency"] == 0 and basis:
            m, v = self._refresh(m, v, basis)
        self.put("exp_avg", m)
        self.put("exp_avg_sq", v)
        return d

    def _measure(self) -> None:
        """Let the factors follow the gradient."""
        beta = self.group["betas"][1] if self.group["shampoo_beta"] < 0 else self.group["shampoo_beta"]
        for side in self.sides:
            accumulate(self.factors(side), self.g if side == "row" else self.g.mT, beta)

    def _refresh(self, m: Tensor, v: Tensor, basis: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One power iteration for the eigenvectors, which come in the order of their eigenvalues; moments follow."""
        m = _out_of(m, basis)
        new: dict[str, Tensor] = {}
        for side, q in basis.items():
            moved = q @ matrices(whole(self.factors(side)))
            order = (q * moved).sum(-1).argsort(-1, descending=True)
            new[side] = orthonormal(moved.gather(-2, order[:, :, None].expand_as(moved)))
            self.put(f"{side}_basis", new[side])
            along, places = (-2, order[:, :, None]) if side == "row" else (-1, order[:, None, :])
            v = v.gather(along, places.expand_as(v))
        return _into(m, new), v


def _into(x: Tensor, basis: Mapping[str, Tensor]) -> Tensor:
    """Q_row X Q_column^T: the rows of Q are the eigenvectors."""
    x = basis["row"] @ x if "row" in basis else x
    return x @ basis["column"].mT if "column" in basis else x


def _out_of(x: Tensor, basis: Mapping[str, Tensor]) -> Tensor:
    """Q_row^T X Q_column."""
    x = basis["row"].mT @ x if "row" in basis else x
    return x @ basis["column"] if "column" in basis else x
