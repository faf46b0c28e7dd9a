"""The CPU backend: lanes through compiled kernels, on torch's own threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import cast

import numpy as np
import torch

from surefoot.engine import launch, rounding, states, threads
from surefoot.engine.cache import address
from surefoot.engine.lane import Floats, Form, Ints, Lane, kernels, per_tensor
from surefoot.engine.launch import BLOCK, FACTORS, SUMS, address_of
from surefoot.engine.options import Options, Structure
from surefoot.engine.update import Item, Scales, Update


class CpuLane(Lane):
    """Parameters in the computer's memory.

    counts: [tensors], the steps that each has taken
    span: the smallest and the largest of them; valid after `refresh`
    """

    def __init__(self, form: Form, items: Sequence[Item]) -> None:
        self._blocks: dict[int, tuple[Ints, Ints]] = {}
        super().__init__(form, items)

    @staticmethod
    def available(form: Form, options: Options) -> bool:
        return None not in _programs(form, options.structure).values()

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

    def step(self, updates: Sequence[Update], scales: Scales, options: Options) -> Floats:
        index, hyper = self._hyper(updates, scales, options)
        if options.cautious:
            agreed = per_tensor(self.first_row, self._launch("agree", options, index, hyper))[:, 0]
            split = self.form.split
            agreed = agreed if split is None else split.total(agreed)
            self.factors[:, FACTORS.index("rescale")] = self.wholes / (agreed + 1)
        sums = self._launch("update", options, index, hyper)
        self._advance()
        return sums

    def _hyper(self, updates: Sequence[Update], scales: Scales, options: Options) -> tuple[Ints, Floats]:
        """The table of hyper-parameters, a row for each (group, step), and which row each tensor takes."""
        bound, share = options.clip_value or math.inf, 1 - (options.ema or 1.0)

        def row(group: int, t: float) -> list[float]:  # as launch.HYPER names them; they are numbers (Update.numeric)
            update = updates[group]
            decay = update.weight_decay
            coupled, decoupled = (0.0, decay) if update.decoupled else (decay, 0.0)
            scalars = update.rule.scalars(t, *(update.hyper[name] for name in update.rule.hyper))
            noise = float(rounding.noise(options.rounding_seed, int(t))) if options.chance else 0.0
            first = (noise, scales.groups[group], bound)
            return [*first, update.lr, coupled, decoupled, share, *scalars]  # pyright: ignore[reportReturnType]

        least, most = self.span
        if least == most:
            return self.group_of, np.array([row(group, least + 1) for group in self.groups], np.float64)
        step = self.counts.astype(np.float64) + 1
        pairs, index = np.unique(np.stack([self.groups[self.group_of], step]), axis=1, return_inverse=True)
        listed = cast("list[tuple[float, float]]", pairs.T.tolist())
        return index.reshape(-1), np.array([row(int(group), t) for group, t in listed], np.float64)

    def _launch(self, kind: str, options: Options, index: Ints | None = None, hyper: Floats | None = None) -> Floats:
        """Run a kernel over the rows. A row without a gradient leaves zeros."""
        program = _programs(self.form, options.structure)[kind]
        assert program is not None  # or else this would be no lane
        make = np.empty if self.active is None else np.zeros
        out = make((len(self.rows), len(SUMS[kind])))
        workers = threads.count(self.elements)
        block = self._block(workers)
        block[CLAIMED], block[OUT] = 0, address_of(out)
        if index is not None and hyper is not None:
            block[INDEX], block[HYPER] = address_of(index), address_of(hyper)
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
        if not self.form.counted:
            self.counts = np.array(self._taken())
            return
        counts = [float(item.kept["step"]) for item in self.items]
        dtype = self.items[0].kept["step"].dtype if max(counts) < states.EXACT else torch.float64
        vector = torch.tensor(counts, dtype=dtype)
        self._count_in(vector)
        self.counts = vector.numpy()

    def _advance(self) -> None:
        """Count a step of every tensor that has a gradient."""
        if not self.form.counted:  # all that such a rule asks is whether it is the first
            self.counts[slice(None) if self.active is None else self.active] = 1
        elif self.active is None:
            self.counts += 1
        else:
            self.counts[self.active] += 1


@cache
def _programs(form: Form, structure: Structure) -> dict[str, int | None]:
    """Where the code of each kind of kernel lies that options of this structure need; compiled if it is new."""
    return {kernel.kind: address(kernel) for kernel in kernels(form, structure)}


UNITS = 4  # shares for each thread: a thread that is held up leaves its last ones to the others
CLAIMED, INDEX, HYPER, OUT = (BLOCK.index(name) for name in ("CLAIMED", "INDEX", "HYPER", "OUT"))
