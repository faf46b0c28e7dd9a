"""What an optimizer keeps for a parameter: created at its first step, counted at every one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surefoot.rules.rule import Rule

AVERAGE = "ema"  # the averaged weights' key in a parameter's state
EXACT = 2**24  # above it single precision no longer counts one by one


def start(rule: Rule, hyper: Mapping[str, Any], p: Tensor, kept: dict[str, Any], averaged: bool = False) -> list[str]:
    """Create what `kept` lacks, laid out in memory as p is. Returns the names of what was created."""
    created: list[str] = []
    if rule.counted and "step" not in kept:
        # torch's layout: a floating 0-d tensor on the CPU
        kept["step"] = torch.zeros((), dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
        created.append("step")
    for name in rule.states:
        if kept.get(name) is None:
            value = hyper[rule.start[name]] if name in rule.start else 0.0
            fill = complex(value, value) if p.is_complex() else value
            kept[name] = torch.full_like(p, fill, requires_grad=False, memory_format=torch.preserve_format)
            created.append(name)
    if averaged and AVERAGE not in kept:
        half = p.dtype in (torch.bfloat16, torch.float16)  # too coarse for the small steps of an average
        kept[AVERAGE] = p.detach().to(torch.float32 if half else p.dtype, copy=True)
        created.append(AVERAGE)
    return created


def complete(rule: Rule, kept: Mapping[str, Any], averaged: bool) -> bool:
    """Whether a parameter has all that `start` would create."""
    needed = (*names(rule, averaged), *(("step",) if rule.counted else ()))
    return all(kept.get(name) is not None for name in needed)


def names(rule: Rule, averaged: bool) -> tuple[str, ...]:
    """The states that lie beside the parameter in memory, in the order in which kernels take them."""
    return (*rule.states, AVERAGE) if averaged else rule.states


def count(kept: dict[str, Any]) -> float:
    """Count a step and return its number."""
    if kept["step"].dtype == torch.float32 and kept["step"] >= EXACT:
        kept["step"] = kept["step"].double()
    kept["step"] += 1
    return kept["step"].item()
