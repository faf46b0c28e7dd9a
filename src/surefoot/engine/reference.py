"""The reference backend: a rule run with torch operations, one tensor after the other.

It takes everything that autograd and torch can: any device, any floating or complex dtype, sparse gradients, tensor
learning rates, differentiable steps. The fast backends are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from surefoot.engine import eight_bit, rounding, shards, sparse, states
from surefoot.engine.options import Options
from surefoot.engine.sparse import Rows
from surefoot.engine.update import Item, Scales, Update
from surefoot.rules.rule import Rule, bind


def maximum(x: Any, y: Any) -> Any:
    """The larger of two tensors or numbers; torch.maximum takes no numbers."""
    x, y = (x, y) if isinstance(x, Tensor) else (y, x)
    if not isinstance(x, Tensor):
        return max(x, y)
    return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of two tensors or numbers."""
    return -maximum(-x, -y)


OPERATIONS = {
    "sqrt": torch.sqrt,
    "where": torch.where,
    "maximum": maximum,
    "minimum": minimum,
    "absolute": torch.abs,
    "sign": torch.sign,
}


@cache
def bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """A rule's function of tensors."""
    return bind(function, OPERATIONS)


def norm(grad: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    """The sum of the squares (or the largest size) of a gradient, and how many of its elements are not finite."""
    g = grad.detach().coalesce().values() if grad.layout == torch.sparse_coo else grad.detach().to_dense()
    bad = (~g.isfinite()).sum()
    if largest:
        return (g.abs().amax() if g.numel() else g.new_zeros(()).abs()), bad
    return _squares(_elements(g)), bad


@dataclass
class Step:
    """What a parameter's step is made of.

    number: which of its steps this is
    rows: of the parameter, its states and its gradient the ones that there is a gradient for; None: all
    x: the parameter, raw: its gradient, g: what the rule is given
    old: the states
    scalars, numbers: what the rule's `scalars` returned
    whole: the rate and the decoupled decay, for rules that take them
    """

    number: float
    rows: Rows | None
    x: Tensor
    raw: Tensor
    g: Tensor
    old: list[Tensor]
    scalars: tuple[Any, ...]
    numbers: tuple[Any, ...]
    lr: float | Tensor
    decay: float | Tensor
    decays: bool
    whole: tuple[Any, ...]


def begin(item: Item, update: Update, options: Options, scales: Scales) -> Step:
    """Make ready for a step of a parameter along its scaled gradient; its states are there then."""
    p, kept, rule, scale = item.p, item.kept, update.rule, scales.of(item)
    grad = scales.gradients.get(item.number, p.grad)
    assert grad is not None
    item.created.extend(states.start(rule, update.hyper, p, kept, options))
    t = 1.0 if set(item.created) & set(rule.states) else 2.0
    if states.counted(rule, p, options):
        t = states.next_count(kept)
    numbers = (kept[name] if update.differentiable else kept[name].item() for name in rule.numbers)
    found = rule.scalars(t, *(update.hyper[name] for name in rule.hyper), *numbers)
    lr, decay = update.lr * item.factors[0], update.weight_decay * item.factors[1]
    # a decay of zero is skipped, so that 0 * inf cannot make a NaN of a parameter that overflowed
    decays = isinstance(decay, Tensor) or decay != 0

    held = sparse.rows(grad, p) if rule.sparse and not decays and not update.differentiable else None
    rows, raw = held if held is not None else (None, grad)
    # autograd may keep p for the backward pass, and p is written in place below
    stored, raw = rows.take(p) if rows else p.clone() if update.differentiable else p, _elements(raw)
    x, master = _elements(stored), _master(item, update, options)
    if master is not None:  # a parameter that is not its master copy rounded was written by somebody else
        master = rows.take(master) if rows else master
        x = torch.where(master.to(p.dtype) == stored, master, x)
    # a narrow state of a wide parameter is widened first: beta * state would round to what it is stored in
    read = {name: _read(kept, name) for name in rule.states}
    old = [_elements(rows.take(state) if rows else state) for state in read.values()]
    old = [t.to(torch.promote_types(t.dtype, x.dtype)) for t in old]
    g = raw if scale == 1 else raw * scale
    if options.clip_value is not None:
        g = g.clamp(-options.clip_value, options.clip_value)
    if decays and not update.decoupled:
        g = g + decay * x
    whole = (lr, decay if update.decoupled else 0.0) if rule.whole else ()
    taken = len(found) - len(rule.numbers)
    return Step(t, rows, x, raw, g, old, found[:taken], found[taken:], lr, decay, decays and not rule.whole, whole)


def terms(rule: Rule, now: Step) -> list[Tensor]:
    """The sums that a rule asks for."""
    assert rule.terms is not None
    found = bound(rule.terms)(now.g, now.x, *now.old, *now.scalars, *now.whole)
    return [_wide(term).sum() for term in found]


def step(
    item: Item, update: Update, options: Options, scales: Scales, given: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Move a parameter along its scaled gradient. Returns the sums of `launch.SUMS["update"]`.

    A differentiable step returns none: autograd would have to carry them.
    """
    p, kept, rule = item.p, item.kept, update.rule
    now = begin(item, update, options, scales)
    item.created.clear()  # from here on the step is taken
    if states.counted(rule, p, options):
        states.count(kept)
    factors: Sequence[Any] = update.settled
    if rule.factors is not None and not rule.common:
        factors = bound(rule.factors)(float(p.numel()), *terms(rule, now), *now.scalars, *now.whole)
        factors = [f.to(now.x.dtype) if isinstance(f, Tensor) else f for f in factors]
    g, x, lr = now.g, now.x, now.lr
    more = () if given is None else (given.to(x.dtype),)
    d, *new = bound(rule.direction)(g, x, *more, *now.old, *now.scalars, *factors, *now.whole)
    if options.cautious:
        agrees = d * g > 0
        d = torch.where(agrees, d * (d.numel() / (agrees.sum() + 1).to(d.dtype)), 0)
    if now.decays and update.decoupled:
        d = d + now.decay * x
    move = d if rule.whole else lr * d

    sums = () if update.differentiable else _sums(rule, now.raw, move, x, new, scales.of(item))
    chance = rounding.noise(options.rounding_seed, int(now.number)) if options.random else 0
    master = _master(item, update, options)
    noise = chance if options.chance and master is None else None
    _write(p, x - move, now.rows, noise, item.number, 0)
    if master is not None:
        _write(master, x - move, now.rows, None, item.number, 0)
    for stream, (name, value) in enumerate(zip(rule.states, new, strict=True), 1):
        if update.differentiable:  # in place would spoil what autograd has kept of the old state
            kept[name] = torch.view_as_complex(value) if p.is_complex() else value.to(kept[name].dtype)
        elif states.in_8_bits(kept[name]):
            if now.rows:
                whole = _read(kept, name)
                now.rows.put(whole, value)
                value = whole
            bits = rounding.bits(kept[name], chance, item.number, stream)
            eight_bit.encode(value, bits, kept[name], kept[name + eight_bit.SCALE])
        else:
            _write(kept[name], value, now.rows, noise, item.number, stream)
    for name, value in zip(rule.numbers, now.numbers, strict=True):
        if update.differentiable:
            kept[name] = torch.as_tensor(value, dtype=torch.float64)
        else:
            kept[name].fill_(value)
    if options.ema is not None:
        average = kept[states.AVERAGE]
        average.lerp_((p if master is None else master).detach().to(average.dtype), 1 - options.ema)
    return sums


def _master(item: Item, update: Update, options: Options) -> Tensor | None:
    """The parameter's copy in single precision, if it has one."""
    return item.kept.get(states.MASTER) if states.MASTER in states.names(update.rule, item.p, options) else None


def _sums(rule: Rule, raw: Tensor, move: Tensor, x: Tensor, new: list[Tensor], scale: float) -> tuple[Tensor, ...]:
    none = raw.new_zeros(())
    momentum2, dot = none, none
    if rule.momentum:
        m = new[rule.states.index(rule.momentum)]
        momentum2, dot = _squares(m), (_wide(raw) * _wide(m)).sum() * (-1 if scale < 0 else 1)
    return _squares(raw), _squares(move), _squares(x), momentum2, dot


def _squares(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_wide(x)).square()  # pyright: ignore[reportUnknownVariableType]


def _wide(x: Tensor) -> Tensor:
    """In double precision, where the device has it: single has no room for squares of what explodes or vanishes."""
    return x if x.device.type == "mps" else x.double()


def _elements(tensor: Tensor) -> Tensor:
    """What a rule computes with: pairs of reals for complex numbers, fp32 for half precision, zeros written out."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj())
    return tensor.float() if tensor.dtype in rounding.HALVES else tensor


def _read(kept: Mapping[str, Any], name: str) -> Tensor:
    """A state as numbers."""
    return eight_bit.decode(kept[name], kept[name + eight_bit.SCALE]) if states.in_8_bits(kept[name]) else kept[name]


def _write(tensor: Tensor, value: Tensor, rows: Rows | None, noise: int | None, number: int, stream: int) -> None:
    """Write a value, into some rows or all; in half precision it is rounded by chance where there is noise."""
    if noise is not None and tensor.dtype in rounding.HALVES:
        begin, tensor, value = shards.begin(tensor), shards.local(tensor), shards.local(value)
        bits = rounding.bits(tensor, noise, number, stream, begin)
        bits = rows.take(bits) if rows else bits
        value = rounding.by_chance(value.float(), bits, tensor.dtype)
    if rows is not None:
        rows.put(tensor, torch.view_as_complex(value) if tensor.is_complex() else value.to(tensor.dtype))
    else:
        (torch.view_as_real(tensor) if tensor.is_complex() else tensor).copy_(value)
