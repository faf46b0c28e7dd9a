"""The tensors that one launch of a compiled kernel takes, and where they lie: what is the same on every device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surefoot.engine import states
from surefoot.engine.launch import FACTORS, Kernel
from surefoot.engine.options import Options, Structure
from surefoot.engine.rounding import HALVES
from surefoot.engine.scan import scan
from surefoot.engine.shards import Split, begin, lay_out, local, partition, simple
from surefoot.engine.update import Item, Scales, Update
from surefoot.rules.rule import Rule

CHUNK = 16384  # elements of a row: few enough to share a small lane evenly; in a large one up to 4 times as many
STORED = {torch.float32: "float32", torch.float64: "float64", **HALVES, torch.int8: "int8"}
PLAIN = (Tensor, torch.nn.Parameter)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """What the parameters of a lane share.

    device: where they lie
    names: the states that a kernel reads and writes, in the order of the kernel's arguments
    scales: what belongs to those in 8 bits
    stored: the dtypes of the parameter (and its gradient) and of these
    counted: whether steps are counted
    split: among which processes their elements are divided; None: they are plain tensors
    """

    device: torch.device
    rule: Rule
    names: tuple[str, ...]
    stored: tuple[str, ...]
    counted: bool
    split: Split | None = None
    scales: tuple[str, ...] = ()


class Lane(ABC):
    """Parameters of one form. A device's own kind of lane counts their steps and launches kernels over them.

    Of sharded parameters it takes the parts that lie here.

    items: the parameters, with their states and groups
    sizes, wholes: int64 [tensors], how many elements they have here, and in all processes
    rows: int64 [rows, 3], the chunks: tensor, first element, number of elements
    first_row: int64 [tensors + 1], the first row of each tensor
    row_groups, group_rows: the groups that have rows, and the first row of each
    pointers: int64 [., tensors], as `launch.BLOCK` has them; those of gradients valid after `refresh`
    factors: float64 [tensors, .], as `launch.FACTORS` has them, and then those of the rule
    active: bool [tensors], which have a gradient in this step; None: all
    """

    def __init__(self, form: Form, items: Sequence[Item]) -> None:
        self.form, self.items = form, items
        self.params = [item.p for item in items]
        self.groups, self.group_of = np.unique([item.group for item in items], return_inverse=True)
        self.sizes = np.array([local(p).numel() for p in self.params], np.int64)
        self.wholes = np.array([p.numel() for p in self.params], np.int64)
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
        more = [0.0] * form.rule.counts[2]
        self.factors = np.array([(*i.factors, i.number, 1.0, begin(i.p), 1.0, *more) for i in items], np.float64)
        self._clipped = False
        self._kept = [item.kept for item in items]
        self._names = (*form.names, *form.scales)
        self._streams = [self.params, *([kept[name] for kept in self._kept] for name in self._names)]
        self._layout = [_layout(t) for stream in self._streams for t in stream]
        self.pointers: Ints = np.zeros((2 + len(self._names) + form.rule.given, len(items)), np.int64)
        self.pointers[[0, *range(2, 2 + len(self._names))]] = [
            [local(t).data_ptr() for t in stream] for stream in self._streams
        ]
        self.active: npt.NDArray[np.bool_] | None
        self._running: dict[str, list[Tensor]] = {}
        self._lie_at: list[int] = []
        self._count()
        self._scan = scan(self.params, self.pointers[1])
        if not self.refresh():
            raise AssertionError("the tensors of a lane changed while it was made")

    def refresh(self) -> bool:
        """Read the gradients' addresses for this step. Returns whether they are laid out as the parameters are."""
        missing = self._scan() if self._scan is not None else -1
        if missing < 0:  # a scan tells only that something may be otherwise
            grads = [p.grad for p in self.params]
            for p, grad in zip(self.params, grads, strict=True):
                lay_out(grad, p)
            if not all(grad is None or alike(grad, p) for p, grad in zip(self.params, grads, strict=True)):
                return False
            # an empty gradient is one, too
            self.pointers[1] = [0 if grad is None else local(grad).data_ptr() or 1 for grad in grads]
            missing = grads.count(None)
        self.active = self.pointers[1] != 0 if missing else None
        return True

    def same(self) -> bool:
        """Whether the parameters and their states are still what and where they were."""
        for name, stream in zip(self._names, self._streams[1:], strict=True):
            if not all(kept.get(name) is t for kept, t in zip(self._kept, stream, strict=True)):
                return False
        for name, stream in self._running.items():
            if not all(kept.get(name) is t for kept, t in zip(self._kept, stream, strict=True)):
                return False
        return [t.data_ptr() for stream in self._running.values() for t in stream] == self._lie_at and [
            _layout(t) for stream in self._streams for t in stream
        ] == self._layout

    def tensors(self) -> list[Tensor]:
        """All that `same` is about."""
        return [t for stream in (*self._streams, *self._running.values()) for t in stream]

    late: ClassVar[bool] = False  # whether a step can be decided on the device, so that the host need not wait for it

    @staticmethod
    @abstractmethod
    def available(form: Form, options: Options) -> bool:
        """Whether this machine can run the kernels that these options need."""

    @staticmethod
    @abstractmethod
    def takes(update: Update) -> bool:
        """Whether such a lane can compute with a group's hyper-parameters."""

    @abstractmethod
    def norms(self, options: Options) -> Any:
        """For each row the sum of squares (or the largest size) of the gradient and the number of bad elements."""

    @abstractmethod
    def begin(self, updates: Sequence[Update], scales: Scales, options: Options) -> Any:
        """Make ready for a step: hyper-parameters, and the sums that the rule asks for.

        Returns these for each tensor, [tensors, sums], if they are part of sums over all tensors.
        """

    @abstractmethod
    def step(self, updates: Sequence[Update], options: Options, given: Mapping[int, Tensor]) -> Any:
        """Move the parameters along their scaled gradients, after `begin`.

        Args:
            given: by the parameters' numbers, for a rule that takes it

        Returns for each row the sums that `launch.SUMS["update"]` names.
        """

    @abstractmethod
    def _count(self) -> None:
        """Put the step counts, and each of the rule's numbers, into a vector, of which the states hold views."""

    def _give(self, given: Mapping[int, Tensor]) -> Sequence[Tensor]:
        """Say where what the rule is given lies. What is returned must live until the step is taken."""
        if not self.form.rule.given:
            return ()
        dtype = torch.float64 if self.form.stored[0] == "float64" else torch.float32
        items = [(i, item) for i, item in enumerate(self.items) if item.number in given]
        some = {i: laid_out(given[item.number], item.p, dtype) for i, item in items}
        self.pointers[-1] = 0
        for i, d in some.items():
            self.pointers[-1, i] = d.data_ptr()
        return list(some.values())

    def _take(self, scales: Scales) -> None:
        """Take up factors that gradients have of their own, and gradients that were changed."""
        for i, item in enumerate(self.items if scales.gradients else ()):
            if item.number in scales.gradients:
                self.pointers[1, i] = scales.gradients[item.number].data_ptr()
        if scales.tensors or self._clipped:
            self.factors[:, FACTORS.index("clip")] = [scales.tensors.get(item.number, 1.0) for item in self.items]
            self._clipped = bool(scales.tensors)

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

    def _keep(self, name: str, vector: Tensor) -> None:
        """Let the parameters' states hold the elements of a vector by this name."""
        self._running[name] = list(vector.unbind())
        for item, element in zip(self.items, self._running[name], strict=True):
            item.kept[name] = element
        self._lie_at = [t.data_ptr() for stream in self._running.values() for t in stream]

    def _taken(self) -> list[float]:
        """What a rule that does not count asks for each parameter: whether it took a step before, 1 or 0."""
        return [float(not set(item.created) & set(self.form.rule.states)) for item in self.items]


@cache
def kernels(form: Form, structure: Structure) -> Sequence[Kernel]:
    """The kernels that options of this structure need."""
    bounded, cautious, clearing, chance, norm = structure
    update = Kernel(
        "update",
        form.stored,
        form.rule,
        bounded=bounded,
        cautious=cautious,
        averaged=states.AVERAGE in form.names,
        clearing=clearing,
        mastered=states.MASTER in form.names,
        chance=chance and not set(HALVES.values()).isdisjoint(form.stored),
    )
    found = [update]
    plain = replace(update, cautious=False, clearing=False, chance=False)
    if form.rule.terms is not None:
        found.append(replace(plain, kind="measure"))
    if cautious:
        found.append(replace(plain, kind="agree"))
    if norm:
        found.append(Kernel(norm, form.stored[:1]))
    return found


def laid_out(d: Tensor, p: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of p's shape in some dtype, its elements in the same order in memory as p's."""
    if d.dtype == dtype and d.stride() == p.stride():
        return d
    return torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(d)


def fits(p: Tensor) -> bool:
    """Whether a lane can take this parameter: plain (or its part is), real, without gaps or overlaps in its memory."""
    here = local(p)
    plain = type(here) in PLAIN and here.layout == torch.strided and not here.is_neg()
    return plain and here.dtype in STORED and _dense(here) and simple(p)


def alike(t: Tensor, p: Tensor) -> bool:
    """Whether a gradient t is as plain as p, and its elements lie in the same order."""
    return t.dtype == p.dtype and beside(t, p)


def beside(t: Tensor, p: Tensor) -> bool:
    """Whether a state t is as plain as p, its elements lie in the same order, and a kernel can compute with both."""
    mixable = t.device == p.device and (t.dtype == torch.float64) == (p.dtype == torch.float64)
    together = t.shape == p.shape and partition(t) == partition(p)
    return mixable and together and fits(t) and _alike(local(t), local(p))


def _layout(p: Tensor) -> tuple[Any, ...]:
    here = local(p)
    if here is not p:
        return type(p), p._cdata, p.shape, partition(p), _layout(here)
    where = (p.stride(), p.data_ptr(), p._cdata, p.is_neg()) if p.layout == torch.strided else ()
    return type(p), p.dtype, p.device, p.layout, p.shape, where


def _alike(t: Tensor, p: Tensor) -> bool:
    return t.shape == p.shape and _order(t) == _order(p)


def _order(t: Tensor) -> list[int]:
    """The strides that matter: those of dimensions with more than one element."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1 and t.numel()]


def _dense(t: Tensor) -> bool:
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1):
        if stride != expected:
            return not t.numel()
        expected *= size
    return True


def per_tensor(first_row: Ints, rows: Floats, gather: np.ufunc = np.add) -> Floats:
    """Sums (or what `gather` makes) over rows [rows, k] gathered into those over tensors [tensors, k]."""
    totals = np.zeros((len(first_row) - 1, rows.shape[1]))
    some = np.diff(first_row) > 0  # an empty tensor has no rows
    if some.any():
        totals[some] = gather.reduceat(rows, first_row[:-1][some], axis=0)
    return totals
