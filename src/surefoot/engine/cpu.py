"""The CPU backend: lanes through compiled kernels, on torch's own threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from surefoot.engine import launch, rounding, states, threads
from surefoot.engine.cache import address
from surefoot.engine.lane import Floats, Form, Ints, Lane, kernels, per_tensor
from surefoot.engine.launch import BLOCK, FACTORS, HYPER, address_of
from surefoot.engine.options import Options, Structure
from surefoot.engine.update import Item, Scales, Update
from surefoot.rules.rule import Rule, bind

OPERATIONS = {
    "sqrt": np.sqrt,
    "where": np.where,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "absolute": np.abs,
    "sign": np.sign,
}


class CpuLane(Lane):
    """Parameters in the computer's memory.

    counts: [tensors], the steps that each has taken
    span: the smallest and the largest of them; valid after `refresh`
    numbers: float64 [., tensors], the rule's own
    """

    def __init__(self, form: Form, items: Sequence[Item]) -> None:
        self._blocks: dict[int, tuple[Ints, Ints]] = {}
        super().__init__(form, items)

    @staticmethod
    def available(form: Form, options: Options) -> bool:
        return all(program is not None for program, _ in _programs(form, options.structure).values())

    @staticmethod
    def takes(update: Update) -> bool:
        return update.numeric

    def refresh(self) -> bool:
        if not super().refresh():
            return False
        self.span = float(np.minimum.reduce(self.counts)), float(np.maximum.reduce(self.counts))
        if self.form.counted and self.counts.dtype == np.float32 and self.span[1] >= states.EXACT:
            self._count()
        return True

    def norms(self, options: Options) -> Floats:
        return self._launch("largest" if options.largest else "norm", options)

    def begin(self, updates: Sequence[Update], scales: Scales, options: Options) -> Floats | None:
        rule = self.form.rule
        self._take(scales)
        self._index, table = self._table(updates, scales, options)
        self._hyper, self._next = table, table[:, :0]
        if rule.numbers:
            width = table.shape[1] - len(rule.numbers)
            self._hyper, self._next = np.ascontiguousarray(table[:, :width]), table[:, width:]
        if rule.terms is None:
            return None
        sums = self._totals("measure", options)
        if rule.common:
            return sums
        assert rule.factors is not None
        each = self._hyper[self._index]
        scalars: list[Floats] = [*each[:, len(HYPER) :].T]
        whole: list[Floats] = []
        if rule.whole:
            pairs = (("lr", "lr_factor"), ("decoupled", "decay_factor"))
            whole = [each[:, HYPER.index(a)] * self.factors[:, FACTORS.index(b)] for a, b in pairs]
        with np.errstate(all="ignore"):
            for i, factor in enumerate(_bound(rule)(self.wholes, *sums.T, *scalars, *whole), len(FACTORS)):
                self.factors[:, i] = factor
        return None

    def step(self, updates: Sequence[Update], options: Options, given: Mapping[int, Tensor]) -> Floats:
        alive = self._give(given)
        if self.form.rule.common:
            for group in self.groups:
                settled = [float(value) for value in updates[int(group)].settled]
                self.factors[self.groups[self.group_of] == group, len(FACTORS) :] = settled
        if options.cautious:
            self.factors[:, FACTORS.index("rescale")] = self.wholes / (self._totals("agree", options)[:, 0] + 1)
        sums = self._launch("update", options)
        self._advance()
        del alive
        return sums

    def _totals(self, kind: str, options: Options) -> Floats:
        """What a kernel leaves for each tensor, in all processes."""
        found = per_tensor(self.first_row, self._launch(kind, options))
        return found if self.form.split is None else self.form.split.total(found)

    def _table(self, updates: Sequence[Update], scales: Scales, options: Options) -> tuple[Ints, Floats]:
        """Which row of the table of hyper-parameters each tensor takes, and the table: a row for each (group, step).

        After what `launch.HYPER` names and the rule's scalars come its new numbers.
        """
        bound, share = options.clip_value or math.inf, 1 - (options.ema or 1.0)

        def row(group: int, t: float, *numbers: float) -> list[float]:  # all are numbers (Update.numeric)
            update = updates[group]
            decay = update.weight_decay
            coupled, decoupled = (0.0, decay) if update.decoupled else (decay, 0.0)
            scalars = update.rule.scalars(t, *(update.hyper[name] for name in update.rule.hyper), *numbers)
            noise = float(rounding.noise(options.rounding_seed, int(t))) if options.random else 0.0
            first = (noise, scales.groups[group], bound)
            return [*first, update.lr, coupled, decoupled, share, *scalars]  # pyright: ignore[reportReturnType]

        least, most = self.span
        if least == most and not len(self.numbers):
            return self.group_of, np.array([row(group, least + 1) for group in self.groups], np.float64)
        step = self.counts.astype(np.float64) + 1
        keys = np.stack([self.groups[self.group_of], step, *self.numbers])
        if (keys == keys[:, :1]).all():
            return np.zeros(len(self.items), np.int64), np.array(
                [row(int(keys[0, 0]), *keys[1:, 0].tolist())], np.float64
            )
        pairs, index = np.unique(keys, axis=1, return_inverse=True)
        listed = cast("list[tuple[float, ...]]", pairs.T.tolist())
        return index.reshape(-1), np.array([row(int(group), *rest) for group, *rest in listed], np.float64)

    def _launch(self, kind: str, options: Options) -> Floats:
        """Run a kernel over the rows. A row without a gradient is left as it is, which is 0."""
        program, width = _programs(self.form, options.structure)[kind]
        assert program is not None  # or else this would be no lane
        make = np.empty if self.active is None else np.zeros
        out = make((len(self.rows), width))
        workers = threads.count(self.elements)
        block = self._block(workers)
        block[CLAIMED], block[OUT] = 0, address_of(out)
        if kind not in ("norm", "largest"):
            block[INDEX], block[TABLE] = address_of(self._index), address_of(self._hyper)
        threads.run(program, address_of(block), workers)
        return out

    def _block(self, threads: int) -> Ints:
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

    def _count(self) -> None:
        names = self.form.rule.numbers
        numbers = torch.tensor([[float(i.kept[name]) for i in self.items] for name in names], dtype=torch.float64)
        self.numbers: Floats = numbers.numpy()
        for name, vector in zip(names, numbers, strict=True):
            self._keep(name, vector)
        if not self.form.counted:
            self.counts = np.array(self._taken())
            return
        counts = [float(item.kept["step"]) for item in self.items]
        dtype = self.items[0].kept["step"].dtype if max(counts) < states.EXACT else torch.float64
        vector = torch.tensor(counts, dtype=dtype)
        self._keep("step", vector)
        self.counts = vector.numpy()

    def _advance(self) -> None:
        """Count a step of every tensor that has a gradient."""
        if len(self.numbers):
            new: Floats = np.transpose(self._next[self._index])
            self.numbers[:] = new if self.active is None else np.where(self.active, new, self.numbers)
        if not self.form.counted:  # all that such a rule asks is whether it is the first
            self.counts[slice(None) if self.active is None else self.active] = 1
        elif self.active is None:
            self.counts += 1
        else:
            self.counts[self.active] += 1


@cache
def _bound(rule: Rule) -> Callable[..., tuple[Any, ...]]:
    """What makes a rule's factors of its sums, over arrays."""
    assert rule.factors is not None
    return bind(rule.factors, OPERATIONS)


@cache
def _programs(form: Form, structure: Structure) -> dict[str, tuple[int | None, int]]:
    """Where the code of each kind of kernel lies that options of this structure need, and how many sums it leaves.

    A new one is compiled.
    """
    return {kernel.kind: (address(kernel), len(kernel.sums)) for kernel in kernels(form, structure)}


UNITS = 4  # shares for each thread: a thread that is held up leaves its last ones to the others
CLAIMED, INDEX, TABLE, OUT = (BLOCK.index(name) for name in ("CLAIMED", "INDEX", "HYPER", "OUT"))
