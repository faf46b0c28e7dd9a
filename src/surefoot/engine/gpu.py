"""The GPU backend: lanes through Triton's kernels. A step waits for nothing.

All that a step depends on stays on the device: step counts, hyper-parameters, the norm, the clip factor, and whether
the step is skipped. The host sends what has changed since the last step (rates, addresses of gradients), and reads when
the user does. So a step can be captured in a CUDA graph as it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from subprocess import SubprocessError
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surefoot.engine import element, reference, rounding
from surefoot.engine.gpu_source import row_columns
from surefoot.engine.lane import Form, Lane, kernels
from surefoot.engine.options import Options
from surefoot.engine.update import Item, Scales, Update
from surefoot.errors import UserError
from surefoot.rules.rule import Rule

DEVICES = ["cuda"]  # kinds of device; tests add the CPU, which Triton's interpreter runs on
WARPS = 4

log = logging.getLogger("surefoot")
Array: TypeAlias = "npt.NDArray[np.int64] | npt.NDArray[np.float64]"


class GpuLane(Lane):
    """Parameters in a GPU's memory."""

    late = True

    def __init__(self, form: Form, items: Sequence[Item]) -> None:
        self._given, self._pointers = Table(form.device), Table(form.device)
        super().__init__(form, items)
        self._groups_of = sent(self.groups[self.group_of], form.device)
        self._rows = sent(self.rows, form.device)
        self._told_factors = Table(form.device)
        self._wholes, self._first_row = sent(self.wholes, form.device), sent(self.first_row, form.device)
        self._first_rows: dict[int, Tensor] = {}

    @staticmethod
    def available(form: Form, options: Options) -> bool:
        return works(form.device) and _has_text(form.rule) and "int8" not in form.stored

    @staticmethod
    def takes(update: Update) -> bool:
        return not update.differentiable

    def refresh(self) -> bool:
        same = super().refresh()
        self._addresses = self._pointers.put(self.pointers)
        return same

    def norms(self, options: Options) -> Tensor:
        return self._launch("largest" if options.largest else "norm", options)

    def gather(self, rows: Tensor, groups: int, options: Options) -> Tensor:
        """What `norms` returned put together for each group of the optimizer, [groups, 2]."""
        if groups not in self._first_rows:
            first = np.searchsorted(self.groups[self.group_of][self.rows[:, 0]], np.arange(groups + 1))
            self._first_rows[groups] = sent(first, self.form.device)
        found = self._gather(rows, self._first_rows[groups], options.largest)
        return found if self.form.split is None else self.form.split.reduce(found, options.largest)

    def begin(self, updates: Sequence[Update], scales: Scales, options: Options) -> Tensor | None:
        rule = self.form.rule
        self._take(scales)
        if scales.gradients:
            self._addresses = self._pointers.put(self.pointers)
        self._hyper = self._prepare(updates, scales, options)
        if rule.terms is None:
            return None
        sums = self._totals("measure", options)
        if rule.common:
            return sums
        assert rule.factors is not None
        columns = dict(zip(row_columns(rule), self._hyper.T, strict=True))
        whole = (columns["lr"], columns["decoupled"]) if rule.whole else ()
        scalars = (columns[name] for name in element.scalars(rule))
        found = reference.bound(rule.factors)(self._wholes, *sums.T, *scalars, *whole)
        self._settle(found)
        return None

    def step(self, updates: Sequence[Update], options: Options, given: Mapping[int, Tensor]) -> Tensor:
        alive = self._give(given)
        if alive:
            self._addresses = self._pointers.put(self.pointers)
        if self.form.rule.common:
            found = [update.settled for update in updates if update.rule is self.form.rule]
            settled = torch.stack([torch.stack([self._number(value) for value in values]) for values in found])
            of_group = np.cumsum([update.rule is self.form.rule for update in updates]) - 1
            self._settle(settled[sent(of_group[self.groups[self.group_of]], self.form.device)].T)
        if options.cautious:
            agreed = self._totals("agree", options)[:, 0]
            self._hyper[:, row_columns(self.form.rule).index("rescale")] = self._wholes / (agreed + 1)
        sums = self._launch("update", options)
        del alive  # what is launched later on this stream may have its memory
        return sums

    def _number(self, value: float | Tensor) -> Tensor:
        """A number on the device. One that came from parameters elsewhere is sent."""
        return torch.as_tensor(value, dtype=torch.float64).to(self.form.device, non_blocking=True)

    def _settle(self, found: Iterable[Tensor]) -> None:
        """Take up the rule's factors, for each tensor."""
        first = row_columns(self.form.rule).index("f0")
        for i, factor in enumerate(found, first):
            self._hyper[:, i] = factor

    def _totals(self, kind: str, options: Options) -> Tensor:
        """What a kernel leaves for each tensor, in all processes."""
        found = self._gather(self._launch(kind, options), self._first_row, False)
        return found if self.form.split is None else self.form.split.reduce(found)

    def _prepare(self, updates: Sequence[Update], scales: Scales, options: Options) -> Tensor:
        """The table of hyper-parameters, a row for each tensor as `gpu_source.row_columns` has it; counts the step."""
        from surefoot.engine.gpu_kernels import prepare
        from surefoot.engine.gpu_source import TENSORS

        n, device, clip = len(self.items), self.form.device, options.clip_norm
        skips = options.skip_nonfinite and scales.found is not None
        clipped = "" if clip is None or scales.found is None else "each" if clip.per_group else "whole"
        given = self._told(updates, scales, options)
        found = given[None] if scales.found is None else scales.found[device]
        scale, overflow = (
            _constant(device, number) if value is None else value.to(device, non_blocking=True)
            for number, value in ((1.0, scales.loss_scale), (0.0, scales.overflow))
        )
        hyper = given.new_empty((n, len(row_columns(self.form.rule))))
        told = self._told_factors.put(self.factors)
        tables = given, self._groups_of, told, self._addresses, n, self._vector, self._numbers
        measured = found, len(found), len(updates), scale, overflow
        with _on(device):
            prepare(self.form.rule)[(-(-n // TENSORS),)](
                *tables, *measured, hyper,
                COUNTED=self.form.counted, CLIP=clipped, LARGEST=options.largest, SKIP=skips,
            )  # fmt: skip
        return hyper

    def _told(self, updates: Sequence[Update], scales: Scales, options: Options) -> Tensor:
        """What the host knows of each group, as `gpu_source.GIVEN` has it, and the rule's hyper-parameters."""
        seed = rounding.mix(options.rounding_seed & rounding.MASK)
        most = options.clip_norm.max_norm if options.clip_norm and scales.found is not None else math.inf
        bound, share = options.clip_value or math.inf, 1 - (options.ema or 1.0)
        rows: list[list[Any]] = []
        for group, update in enumerate(updates):
            decay = update.weight_decay
            coupled, decoupled = (0.0, decay) if update.decoupled else (decay, 0.0)
            first = [seed, scales.groups[group], bound, update.lr, coupled, decoupled, share, most]
            # the hyper-parameters of groups with another rule are not looked at
            rows.append([*first, *(update.hyper.get(name, 0.0) for name in self.form.rule.hyper)])
        late = [(i, k) for i, row in enumerate(rows) for k, value in enumerate(row) if isinstance(value, Tensor)]
        known = [[0.0 if isinstance(value, Tensor) else value for value in row] for row in rows]
        table = self._given.put(np.array(known, np.float64))
        for i, k in late:
            table[i, k].copy_(rows[i][k], non_blocking=True)
        return table

    def _launch(self, kind: str, options: Options) -> Tensor:
        """Run a kernel over the rows. A row without a gradient leaves zeros."""
        from surefoot.engine import gpu_kernels

        kernel = next(each for each in kernels(self.form, options.structure) if each.kind == kind)
        out = torch.empty((len(self.rows), len(kernel.sums)), dtype=torch.float64, device=self.form.device)
        if len(self.rows):
            arguments = self._rows, self._addresses, len(self.items), out if kernel.rule is None else self._hyper, out
            with _on(self.form.device):
                gpu_kernels.rows(kernel)[(len(self.rows),)](*arguments, num_warps=WARPS)
        return out

    def _gather(self, rows: Tensor, first: Tensor, largest: bool) -> Tensor:
        from surefoot.engine.gpu_kernels import others

        found = rows.new_zeros((len(first) - 1, rows.shape[1]))
        if len(found):
            with _on(self.form.device):
                others()["gather"][(len(found),)](rows, first, found, WIDTH=rows.shape[1], LARGEST=largest)
        return found

    def _count(self) -> None:
        names = self.form.rule.numbers
        self._numbers = torch.empty((max(1, len(names)), len(self.items)), dtype=torch.float64, device=self.form.device)
        for name, vector in zip(names, self._numbers, strict=False):
            self._keep(name, vector.copy_(self._gathered(name)))
        if not self.form.counted:
            self._vector = sent(np.array(self._taken()), self.form.device)
            return
        self._vector = self._gathered("step")
        self._keep("step", self._vector)

    def _gathered(self, name: str) -> Tensor:
        """A number in the states of all parameters, in one vector on the device."""
        found = [item.kept[name] for item in self.items]
        if all(number.device.type == "cpu" for number in found):
            return sent(np.array([float(number) for number in found]), self.form.device)
        return torch.stack([number.to(self.form.device, torch.float64) for number in found])


class Table:
    """Numbers of the host's on a device: sent when they have changed, without waiting.

    A captured step has tables of its own, which each replay fills with what was known when it was captured: steps in
    between may have other numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: Array | None = None
        self._sent = torch.empty(0)

    def put(self, values: Array) -> Tensor:
        """The numbers on the device."""
        if capturing():
            return place(values, self._device)
        if self._known is None or not np.array_equal(self._known, values):
            self._known = cast(Array, values.copy())
            self._sent = sent(self._known, self._device)
        return self._sent


def sent(values: Array, device: torch.device) -> Tensor:
    """An array on a device. CUDA takes a copy of it before it returns, so that nobody has to wait for the transfer."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)  # pyright: ignore


def place(values: Array, device: torch.device) -> Tensor:
    """The same as arguments of kernels, which a CUDA graph keeps."""
    from surefoot.engine.gpu_kernels import others
    from surefoot.engine.gpu_source import PLACED

    words: list[int] = np.ascontiguousarray(values).reshape(-1).view(np.int64).tolist()
    table = torch.empty(-(-len(words) // PLACED) * PLACED, dtype=torch.int64, device=device)
    with _on(device):
        for start in range(0, len(words), PLACED):
            some = words[start : start + PLACED]
            others()["place"][(1,)](table[start:], *some, *[0] * (PLACED - len(some)))
    kind = torch.float64 if values.dtype == np.float64 else torch.int64
    return table[: len(words)].view(kind).reshape(values.shape)


def found(
    lanes: Sequence[Lane], rows: Sequence[Tensor], groups: int, options: Options
) -> Mapping[torch.device, Tensor]:
    """What the lanes' `norms` returned put together, on each of their devices [lanes, groups, 2]."""
    parts = [
        lane.gather(each, groups, options) for lane, each in zip(lanes, rows, strict=True) if isinstance(lane, GpuLane)
    ]
    devices = {part.device for part in parts}
    return {device: torch.stack([part.to(device, non_blocking=True) for part in parts]) for device in devices}


def capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def refuse_capture(why: str) -> None:
    """Raise a UserError if a CUDA graph is being captured, which cannot hold the step."""
    if capturing():
        raise UserError(f"this step cannot be captured in a CUDA graph: {why}")


@cache
def works(device: torch.device) -> bool:
    """Whether Triton runs there, tried out; where it does not, that is logged."""
    try:
        values = np.arange(3, dtype=np.int64)
        return place(values, device).tolist() == values.tolist()
    except (ImportError, OSError, RuntimeError, SubprocessError) as error:  # no Triton, or no C compiler for it
        log.warning(f"optimizers on {device} run as torch operations, slower than compiled: {error}")
        return False


@cache
def _has_text(rule: Rule) -> bool:
    """Whether the text of a rule can be read: one typed into an interpreter has none."""
    from surefoot.engine.gpu_source import prepare, rule_text

    try:
        return bool(prepare(rule) and rule_text(rule.direction, "direction", "Div", "divide"))
    except (OSError, TypeError):
        log.warning(f"{rule.name} runs as torch operations on GPUs, slower than compiled: it has no source file")
        return False


@cache
def _constant(device: torch.device, number: float) -> Tensor:
    return torch.full((), number, device=device)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
