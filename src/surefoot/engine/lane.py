"""The tensors that one launch of a compiled kernel takes, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards  # what torch.compile checks its inputs by; imports no torch._dynamo

from surefoot.engine import states
from surefoot.engine.update import Item
from surefoot.rules.rule import Rule

CHUNK = 16384  # elements of a row: few enough to share a large tensor evenly, enough for a row to cost nothing
UNITS = 4  # shares for each thread: a thread that is held up leaves its last ones to the others
PRECISIONS = {torch.float32: "float32", torch.float64: "float64"}
PLAIN = (Tensor, torch.nn.Parameter)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# bare getters for `map`: hundreds of tensors are asked at each step, and a Python frame for each would cost more
address_of: Callable[[Tensor], int] = Tensor.data_ptr
gradient_of: Callable[[Tensor], Tensor | None] = cast(Any, Tensor.grad).__get__


class Lane:
    """Parameters on the CPU that share a rule and a precision.

    items: the parameters, with their states and groups
    names: the states that a kernel reads and writes, in the order of the kernel's arguments
    rows: int64 [rows, 3], the chunks: tensor, first element, number of elements
    first_row: int64 [tensors + 1], the first row of each tensor
    counts: [tensors], the steps that each has taken
    pointers: int64 [2 + names, tensors], as `launch.BLOCK` has them; valid after `refresh`
    active: bool [tensors], which have a gradient in this step; None: all
    """

    def __init__(self, rule: Rule, precision: str, items: Sequence[Item], averaged: bool) -> None:
        self.rule, self.precision, self.items = rule, precision, items
        self.names = states.names(rule, averaged)
        self.params = [item.p for item in items]
        self.groups, self.group_of = np.unique([item.group for item in items], return_inverse=True)
        self.sizes = np.array([p.numel() for p in self.params], np.int64)
        self.elements = int(self.sizes.sum())
        chunks = -(-self.sizes // CHUNK)
        self.first_row = np.concatenate([[0], np.cumsum(chunks)])
        tensor = np.repeat(np.arange(len(items)), chunks)
        start = (np.arange(len(tensor)) - self.first_row[tensor]) * CHUNK
        size = np.minimum(CHUNK, self.sizes[tensor] - start)
        self.rows: Ints = np.ascontiguousarray(np.stack([tensor, start, size], axis=1), np.int64)
        self.row_groups = self.groups[self.group_of][tensor]
        self.factors = np.array([(*item.factors, 1.0) for item in items])
        self._units: dict[int, Ints] = {}
        self._kept = [item.kept for item in items]
        self._count()
        self._layout = [_layout(p) for p in self.params]
        self._guard: Any = None
        self._absent: list[int] = []
        self.active: npt.NDArray[np.bool_] | None = None
        self.pointers: Ints = self._addresses([gradient_of(p) for p in self.params])

    def refresh(self) -> bool:
        """Read all addresses for this step. Returns whether the tensors are still where and what they were.

        The addresses of gradients may differ: backward makes new ones.
        """
        try:
            grads = list(map(gradient_of, self.params))
            found = self._addresses(grads)
            counted = not self.rule.counted or all(map(is_, map(itemgetter("step"), self._kept), self._steps))
        except KeyError:  # a state is gone
            return False
        moved = not (np.array_equal(found[0], self.pointers[0]) and np.array_equal(found[2:], self.pointers[2:]))
        if moved or not counted or not self._alike(grads):
            return False
        self.pointers = found
        if self.rule.counted and self.counts.dtype == np.float32 and self.counts.max() >= states.EXACT:
            self._count()
        return True

    def units(self, threads: int) -> Ints:
        """The rows in equal shares of consecutive ones, which the memory likes best: [units + 1] first rows."""
        n = 1 if threads == 1 else UNITS * threads
        if n not in self._units:
            ends = np.cumsum(self.rows[:, 2])
            cuts = np.searchsorted(ends, self.elements * np.arange(1, n) / n)
            self._units[n] = np.concatenate([[0], cuts, [len(ends)]]).astype(np.int64)
        return self._units[n]

    def advance(self) -> None:
        """Count a step of every tensor that has a gradient."""
        here = slice(None) if self.active is None else self.active
        self.counts[here] += 1
        if not self.rule.counted:
            self.counts[here] = 1  # all that such a rule asks is whether it is the first

    def moved(self, cleared: bool) -> list[Tensor]:
        """What a step has written, of what autograd may hold."""
        active = (
            self.params
            if self.active is None
            else [p for p, here in zip(self.params, self.active, strict=True) if here]
        )
        return [*active, *(p.grad for p in active if p.grad is not None)] if cleared else active

    def _addresses(self, grads: Sequence[Tensor | None]) -> Ints:
        kept = chain.from_iterable(map(itemgetter(name), self._kept) for name in self.names)
        try:
            of_grads = list(map(address_of, cast("Sequence[Tensor]", grads)))
            absent: list[int] = []
        except TypeError:  # a gradient is None
            of_grads = [0 if grad is None else grad.data_ptr() for grad in grads]
            absent = [i for i, grad in enumerate(grads) if grad is None]
        if absent != self._absent:
            self._absent, self._guard = absent, None
            self.active = None
            if absent:
                self.active = np.ones(len(grads), bool)
                self.active[absent] = False
        addresses = chain(map(address_of, self.params), of_grads, map(address_of, kept))
        shape = (2 + len(self.names), len(grads))
        return np.fromiter(addresses, np.int64, shape[0] * shape[1]).reshape(shape)

    def _alike(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether the parameters are what they were, and their gradients lie in memory as they do."""
        present = [grad for grad in grads if grad is not None] if self._absent else cast("list[Tensor]", grads)
        if self._guard is not None and self._guard.check(*self.params, *present):
            return True
        # the guard also tells modes such as autocast apart, which do not matter here
        pairs = zip(self.params, grads, strict=True)
        if [_layout(p) for p in self.params] != self._layout or not all(g is None or alike(g, p) for p, g in pairs):
            return False
        both = [*self.params, *present]
        sizes, strides = cast("Any", ([[*t.shape] for t in both], [[*t.stride()] for t in both]))
        self._guard = TensorGuards(*both, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        return True

    def _count(self) -> None:
        """Put the step counts into one vector, of which the parameters' states hold views."""
        if not self.rule.counted:
            self.counts = np.array([float(not set(item.created) & set(self.rule.states)) for item in self.items])
            return
        counts = [float(kept["step"]) for kept in self._kept]
        dtype = self._kept[0]["step"].dtype if max(counts) < states.EXACT else torch.float64
        vector = torch.tensor(counts, dtype=dtype)
        self._steps = list(vector.unbind())
        for kept, step in zip(self._kept, self._steps, strict=True):
            kept["step"] = step
        self.counts = vector.numpy()


def fits(p: Tensor) -> bool:
    """Whether a lane can take this parameter: plain, real, on the CPU, without gaps or overlaps in its memory."""
    plain = type(p) in PLAIN and p.layout == torch.strided and p.device.type == "cpu" and not p.is_neg()
    return plain and p.dtype in PRECISIONS and _dense(p)


def alike(t: Tensor, p: Tensor) -> bool:
    """Whether t is as plain as p, and its elements lie in the same order."""
    return fits(t) and t.dtype == p.dtype and t.shape == p.shape and _order(t) == _order(p)


def _layout(p: Tensor) -> tuple[Any, ...]:
    return type(p), p.dtype, p.device, p.layout, p.shape, p.stride() if p.layout == torch.strided else ()


def _order(t: Tensor) -> list[int]:
    """The strides that matter: those of dimensions with more than one element."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


def _dense(t: Tensor) -> bool:
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def per_tensor(first_row: Ints, rows: Floats) -> Floats:
    """Sums over rows [rows, k] added up to sums over tensors [tensors, k]."""
    totals = np.zeros((len(first_row) - 1, rows.shape[1]))
    some = np.diff(first_row) > 0  # an empty tensor has no rows
    if some.any():
        totals[some] = np.add.reduceat(rows, first_row[:-1][some], axis=0)
    return totals
