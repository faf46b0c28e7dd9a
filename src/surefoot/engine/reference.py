"""The reference backend: a rule run with torch operations, one tensor after the other.

It takes everything that autograd and torch can: any device, any floating or complex dtype, tensor learning rates,
differentiable steps. The fast backends are tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.update import Update
from surefoot.rules.rule import Rule, bind

OPERATIONS = {
    "sqrt": torch.sqrt,
    "where": torch.where,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "absolute": torch.abs,
    "sign": torch.sign,
}


@cache
def direction(rule: Rule):
    return bind(rule.direction, OPERATIONS)


def run(update: Update) -> None:
    """Take the step: write every parameter and every state of `update`."""
    scalars: dict[float, tuple[Any, ...]] = {}  # by step: most parameters are at the same one
    for p, grad, state in zip(update.params, update.grads, update.states, strict=True):
        t = _count(update, p, state)
        if t not in scalars:
            scalars[t] = update.rule.scalars(t, *(update.hyper[name] for name in update.rule.hyper))
        _step(update, p, grad, state, scalars[t])


def start(rule: Rule, hyper: Mapping[str, Any], p: Tensor, state: dict[str, Any]) -> bool:
    """Create what `state` lacks, laid out in memory as p is. Returns whether anything was lacking."""
    if rule.counted and "step" not in state:
        # torch's layout: a floating 0-d tensor on the CPU
        state["step"] = torch.zeros((), dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
    missing = [name for name in rule.states if state.get(name) is None]
    for name in missing:
        value = hyper[rule.start[name]] if name in rule.start else 0.0
        fill = complex(value, value) if p.is_complex() else value
        state[name] = torch.full_like(p, fill, requires_grad=False, memory_format=torch.preserve_format)
    return bool(missing)


def _count(update: Update, p: Tensor, state: dict[str, Any]) -> float:
    """Which step of the parameter this is."""
    fresh = start(update.rule, update.hyper, p, state)
    if not update.rule.counted:
        return 1 if fresh else 2
    state["step"] += 1
    return state["step"].item()


def _step(update: Update, p: Tensor, grad: Tensor, state: dict[str, Any], scalars: tuple[Any, ...]) -> None:
    rule = update.rule
    # autograd may keep p for the backward pass, and p is written in place below
    x, g = _elements(p.clone() if update.differentiable else p), _elements(grad)
    old = [_elements(state[name]) for name in rule.states]
    if update.maximize:
        g = -g
    # a decay of zero is skipped, so that 0 * inf cannot make a NaN of a parameter that overflowed
    decays = isinstance(update.weight_decay, Tensor) or update.weight_decay != 0
    if decays and not update.decoupled:
        g = g + update.weight_decay * x
    d, *new = direction(rule)(g, x, *old, *scalars)
    if decays and update.decoupled:
        d = d + update.weight_decay * x

    _write(p, x - update.lr * d)
    for name, value in zip(rule.states, new, strict=True):
        if update.differentiable:  # in place would spoil what autograd has kept of the old state
            state[name] = torch.view_as_complex(value) if p.is_complex() else value.to(p.dtype)
        else:
            _write(state[name], value)


def _elements(tensor: Tensor) -> Tensor:
    """What a rule computes with: pairs of reals for complex numbers, fp32 for half precision."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _write(tensor: Tensor, value: Tensor) -> None:
    (torch.view_as_real(tensor) if tensor.is_complex() else tensor).copy_(value)
