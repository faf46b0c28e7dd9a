"""What an optimizer keeps for a parameter: created at its first step, counted at every one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surefoot.engine import eight_bit
from surefoot.engine.options import Options
from surefoot.engine.rounding import HALVES
from surefoot.rules.rule import Rule

AVERAGE = "ema"  # the averaged weights' key in a parameter's state
MASTER = "master"  # the key of the parameter's copy in single precision
EXACT = 2**24  # above it single precision no longer counts one by one


def start(rule: Rule, hyper: Mapping[str, Any], p: Tensor, kept: dict[str, Any], options: Options) -> list[str]:
    """Create what `kept` lacks, laid out in memory as p is. Returns the names of what was created."""
    created: list[str] = []
    if counted(rule, p, options) and "step" not in kept:
        # torch's layout: a floating 0-d tensor on the CPU
        kept["step"] = torch.zeros((), dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
        if not rule.counted and all(kept.get(name) is not None for name in rule.states):
            kept["step"] += 1  # such a rule asks whether its states are new
        created.append("step")
    for name in rule.numbers:
        if name not in kept:
            value = _first(rule, hyper, name)  # a tensor where a differentiable step needs it as such
            kept[name] = torch.as_tensor(value, dtype=torch.float64).clone()
            created.append(name)
    for name in rule.states:
        if kept.get(name) is None:
            dtype = _dtype(p, options)
            made = torch.float32 if dtype == torch.int8 else dtype
            if rule.start.get(name) == "p":  # a narrow copy of weights would lose every small step
                dtype = made = torch.promote_types(p.dtype, dtype)
                kept[name] = p.detach().to(made, copy=True)
            else:
                value = float(_first(rule, hyper, name))
                fill = complex(value, value) if p.is_complex() else value
                kept[name] = torch.full_like(
                    p, fill, dtype=made, requires_grad=False, memory_format=torch.preserve_format
                )
            created.append(name)
            if dtype == torch.int8:
                kept[name], kept[name + eight_bit.SCALE] = eight_bit.nearest(kept[name])
                created.append(name + eight_bit.SCALE)
    for name in names(rule, p, options)[len(rule.states) :]:
        if name not in kept:
            kept[name] = p.detach().to(torch.float32 if p.dtype in HALVES else p.dtype, copy=True)
            created.append(name)
    return created


def _dtype(p: Tensor, options: Options) -> torch.dtype:
    """What a new state of a parameter is stored in."""
    if options.state_dtype is None or p.is_complex():
        return p.dtype
    if options.state_dtype == torch.int8 and not eight_bit.suits(p):
        return torch.promote_types(p.dtype, torch.float32)
    return options.state_dtype


def _first(rule: Rule, hyper: Mapping[str, Any], name: str) -> float:
    """What a state or a number starts at."""
    value = rule.start.get(name, 0.0)
    return hyper[value] if isinstance(value, str) else value


def complete(rule: Rule, p: Tensor, kept: Mapping[str, Any], options: Options) -> bool:
    """Whether a parameter has all that `start` would create."""
    needed = (*names(rule, p, options), *rule.numbers, *(("step",) if counted(rule, p, options) else ()))
    return all(kept.get(name) is not None for name in (*needed, *scales(rule, kept)))


def scales(rule: Rule, kept: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what belongs to states in 8 bits."""
    return tuple(name + eight_bit.SCALE for name in rule.states if in_8_bits(kept.get(name)))


def in_8_bits(state: object) -> bool:
    """Whether it is a state in 8 bits."""
    return isinstance(state, Tensor) and state.dtype == torch.int8


def names(rule: Rule, p: Tensor, options: Options) -> tuple[str, ...]:
    """The states that lie beside the parameter in memory, in the order in which kernels take them."""
    averaged, mastered = options.ema is not None, options.master_weights and p.dtype in HALVES
    return (*rule.states, *((AVERAGE,) if averaged else ()), *((MASTER,) if mastered else ()))


def counted(rule: Rule, p: Tensor, options: Options) -> bool:
    """Whether a parameter's steps are counted: rounding by chance needs it, too."""
    halves = p.dtype in HALVES or options.state_dtype in HALVES
    return rule.counted or (options.chance and halves) or _dtype(p, options) == torch.int8


def next_count(kept: Mapping[str, Any]) -> float:
    """The number of the next step."""
    return kept["step"].item() + 1


def count(kept: dict[str, Any]) -> None:
    """Count a step."""
    if kept["step"].dtype == torch.float32 and kept["step"] >= EXACT:
        kept["step"] = kept["step"].double()
    kept["step"] += 1
