"""Gradients changed before a rule is given them, by more than a factor: a copy is made, and `.grad` stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surefoot.engine.lane import laid_out
from surefoot.engine.options import AGC, Options
from surefoot.engine.plan import Plan
from surefoot.engine.shards import sharded
from surefoot.engine.update import Scales, Update
from surefoot.errors import UserError


def gradients(plan: Plan, updates: Sequence[Update], options: Options, scales: Scales) -> dict[int, Tensor]:
    """What the options make of the gradients, by the parameters' numbers; those left out stay as they are."""
    agc = options.clip_norm if isinstance(options.clip_norm, AGC) else None
    found: dict[int, Tensor] = {}
    for item in plan.planned:
        p, grad = item.p.detach(), item.p.grad
        if grad is None or not (agc or p.ndim > 1):
            continue
        if sharded(p):
            raise UserError(
                f"{'centralize' if options.centralize else 'AGC'} needs whole rows, and "
                f"{updates[item.group].name(item.group, item.place)} is divided among processes: leave it out"
            )
        g = grad.detach().to_dense()
        if options.centralize and p.ndim > 1:
            g = centralized(g)
        if agc is not None:
            g = g * _factor(agc, p, g, abs(scales.of(item)), scales.loss_scale)
        found[item.number] = laid_out(g, p, p.dtype)
    return found


def centralized(g: Tensor) -> Tensor:
    """A gradient [out, ...] of which each row's mean is taken away.

    Source: Yong et al. 2020 (arXiv:2004.01461), eq. 1.
    """
    return g - g.mean(dim=tuple(range(1, g.ndim)), keepdim=True)


def _factor(agc: AGC, p: Tensor, g: Tensor, scale: float, loss_scale: Tensor | None) -> Tensor:
    """What each row of a gradient is multiplied by; of a vector or a number the whole.

    Source: Brock et al. 2021 (arXiv:2102.06171), eq. 3.
    """
    size = _row_norms(g).float() * scale
    if loss_scale is not None:
        size = size / loss_scale.to(size.device)
    most = agc.clipping * _row_norms(p).float().clamp(min=agc.eps)
    return torch.where(size > most, most / size, 1).to(g.dtype)


def _row_norms(t: Tensor) -> Tensor:
    wide = t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
    if t.ndim < 2:
        return torch.linalg.vector_norm(wide)  # pyright: ignore[reportUnknownVariableType]
    return torch.linalg.vector_norm(wide, dim=tuple(range(1, t.ndim)), keepdim=True)  # pyright: ignore
