"""The tensors that one launch of a compiled kernel takes, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surefoot.engine import launch, states
from surefoot.engine.launch import BLOCK
from surefoot.engine.rounding import HALVES
from surefoot.engine.scan import scan
from surefoot.engine.update import Item
from surefoot.rules.rule import Rule

CHUNK = 16384  # elements of a row: few enough to share a small lane evenly; in a large one up to 4 times as many
UNITS = 4  # shares for each thread: a thread that is held up leaves its last ones to the others
STORED = {torch.float32: "float32", torch.float64: "float64", **HALVES}
PLAIN = (Tensor, torch.nn.Parameter)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """What the parameters of a lane share.

    names: the states that a kernel reads and writes, in the order of the kernel's arguments
    stored: the dtypes of the parameter (and its gradient) and of these
    counted: whether steps are counted
    """

    rule: Rule
    names: tuple[str, ...]
    stored: tuple[str, ...]
    counted: bool


class Lane:
    """Parameters on the CPU of one form.

    items: the parameters, with their states and groups
    rows: int64 [rows, 3], the chunks: tensor, first element, number of elements
    first_row: int64 [tensors + 1], the first row of each tensor
    row_groups, group_rows: the groups that have rows, and the first row of each
    counts: [tensors], the steps that each has taken
    span: the smallest and the largest of them; valid after `refresh`
    pointers: int64 [2 + names, tensors], as `launch.BLOCK` has them; those of gradients valid after `refresh`
    active: bool [tensors], which have a gradient in this step; None: all
    """

    def __init__(self, form: Form, items: Sequence[Item]) -> None:
        self.form, self.items = form, items
        self.params = [item.p for item in items]
        self.groups, self.group_of = np.unique([item.group for item in items], return_inverse=True)
        self.sizes = np.array([p.numel() for p in self.params], np.int64)
        self.elements = int(self.sizes.sum())
        chunk = CHUNK * min(4, max(1, self.elements >> 22))
        chunks = -(-self.sizes // chunk)
        self.first_row = np.concatenate([[0], np.cumsum(chunks)])
        tensor = np.repeat(np.arange(len(items)), chunks)
        start = (np.arange(len(tensor)) - self.first_row[tensor]) * chunk
        size = np.minimum(chunk, self.sizes[tensor] - start)
        self.rows: Ints = np.ascontiguousarray(np.stack([tensor, start, size], axis=1), np.int64)
        row_groups = self.groups[self.group_of][tensor]
        self.group_rows = np.flatnonzero(np.diff(row_groups, prepend=-1))  # items come group by group
        self.row_groups = row_groups[self.group_rows]
        self.factors = np.array([(*item.factors, item.number, 1.0) for item in items], np.float64)
        self._blocks: dict[int, tuple[Ints, Ints]] = {}
        self._kept = [item.kept for item in items]
        self._streams = [self.params, *([kept[name] for kept in self._kept] for name in form.names)]
        self._layout = [_layout(t) for stream in self._streams for t in stream]
        self.pointers: Ints = np.zeros((2 + len(form.names), len(items)), np.int64)
        self.pointers[[0, *range(2, 2 + len(form.names))]] = [[t.data_ptr() for t in s] for s in self._streams]
        self.active: npt.NDArray[np.bool_] | None
        self._count()
        self._scan = scan(self.params, self.pointers[1])
        if not self.refresh():
            raise AssertionError("the tensors of a lane changed while it was made")

    def refresh(self) -> bool:
        """Read the gradients' addresses for this step. Returns whether they are laid out as the parameters are."""
        missing = self._scan() if self._scan is not None else -1
        if missing < 0:  # a scan tells only that something may be otherwise
            grads = [p.grad for p in self.params]
            if not all(grad is None or alike(grad, p) for p, grad in zip(self.params, grads, strict=True)):
                return False
            # an empty gradient is one, too
            self.pointers[1] = [0 if grad is None else grad.data_ptr() or 1 for grad in grads]
            missing = grads.count(None)
        self.active = self.pointers[1] != 0 if missing else None
        self.span = float(np.minimum.reduce(self.counts)), float(np.maximum.reduce(self.counts))
        if self.form.counted and self.counts.dtype == np.float32 and self.span[1] >= states.EXACT:
            self._count()
        return True

    def same(self) -> bool:
        """Whether the parameters and their states are still what and where they were."""
        for name, stream in zip(self.form.names, self._streams[1:], strict=True):
            if not all(kept.get(name) is t for kept, t in zip(self._kept, stream, strict=True)):
                return False
        steps = [kept.get("step") for kept in self._kept] if self._steps else []
        return (
            all(map(is_, steps, self._steps))
            and [t.data_ptr() for t in self._steps] == self._counted
            and [_layout(t) for stream in self._streams for t in stream] == self._layout
        )

    def tensors(self) -> list[Tensor]:
        """All that `same` is about."""
        return [*(t for stream in self._streams for t in stream), *self._steps]

    def block(self, threads: int) -> Ints:
        """What a launch on so many threads is told of the lane, as `launch.BLOCK` has it.

        A unit is an equal share of consecutive rows, which the memory likes best.
        """
        if threads not in self._blocks:
            n = 1 if threads == 1 else UNITS * threads
            ends = np.cumsum(self.rows[:, 2])
            cuts = np.searchsorted(ends, self.elements * np.arange(1, n) / n)
            first = np.concatenate([[0], cuts, [len(ends)]]).astype(np.int64)
            tables = {"FIRST": first, "ROWS": self.rows, "POINTERS": self.pointers, "FACTORS": self.factors}
            self._blocks[threads] = launch.block(BLOCK, tables, UNITS=n, TENSORS=len(self.items)), first
        return self._blocks[threads][0]

    def advance(self) -> None:
        """Count a step of every tensor that has a gradient."""
        if not self.form.counted:  # all that such a rule asks is whether it is the first
            self.counts[slice(None) if self.active is None else self.active] = 1
        elif self.active is None:
            self.counts += 1
        else:
            self.counts[self.active] += 1

    def moved(self) -> list[Tensor]:
        """The parameters that a step has moved."""
        return self.params if self.active is None else [self.params[i] for i in np.flatnonzero(self.active)]

    def release(self) -> None:
        """The gradients were cleared: autograd must know, and they have left the graph that they came from."""
        for p in self.moved():
            if p.grad is not None:
                torch.autograd.graph.increment_version(p.grad)
                if p.grad.requires_grad:
                    p.grad = p.grad.detach()

    def _count(self) -> None:
        """Put the step counts into one vector, of which the parameters' states hold views."""
        self._steps: list[Tensor] = []
        self._counted: list[int] = []
        if not self.form.counted:
            self.counts = np.array([float(not set(item.created) & set(self.form.rule.states)) for item in self.items])
            return
        counts = [float(kept["step"]) for kept in self._kept]
        dtype = self._kept[0]["step"].dtype if max(counts) < states.EXACT else torch.float64
        vector = torch.tensor(counts, dtype=dtype)
        self._steps = list(vector.unbind())
        for kept, step in zip(self._kept, self._steps, strict=True):
            kept["step"] = step
        self._counted = [step.data_ptr() for step in self._steps]
        self.counts = vector.numpy()


def fits(p: Tensor) -> bool:
    """Whether a lane can take this parameter: plain, real, on the CPU, without gaps or overlaps in its memory."""
    plain = type(p) in PLAIN and p.layout == torch.strided and p.device.type == "cpu" and not p.is_neg()
    return plain and p.dtype in STORED and _dense(p)


def alike(t: Tensor, p: Tensor) -> bool:
    """Whether a gradient t is as plain as p, and its elements lie in the same order."""
    return t.dtype == p.dtype and beside(t, p)


def beside(t: Tensor, p: Tensor) -> bool:
    """Whether a state t is as plain as p, its elements lie in the same order, and a kernel can compute with both."""
    mixable = (t.dtype == torch.float64) == (p.dtype == torch.float64)
    return mixable and fits(t) and t.shape == p.shape and _order(t) == _order(p)


def _layout(p: Tensor) -> tuple[Any, ...]:
    where = (p.stride(), p.data_ptr(), p._cdata, p.is_neg()) if p.layout == torch.strided else ()
    return type(p), p.dtype, p.device, p.layout, p.shape, where


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


def per_tensor(first_row: Ints, rows: Floats, gather: np.ufunc = np.add) -> Floats:
    """Sums (or what `gather` makes) over rows [rows, k] gathered into those over tensors [tensors, k]."""
    totals = np.zeros((len(first_row) - 1, rows.shape[1]))
    some = np.diff(first_row) > 0  # an empty tensor has no rows
    if some.any():
        totals[some] = gather.reduceat(rows, first_row[:-1][some], axis=0)
    return totals
