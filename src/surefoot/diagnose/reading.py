"""What the signals of a training say, worked out once for all detectors. Robust: medians, of finite values."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from surefoot.diagnose.base import base_rate, blank_loss
from surefoot.watch.layers import FIELDS
from surefoot.watch.picks import Floats, Mask
from surefoot.watch.signals import Counts, Look, Signals

NAN = float("nan")
ROUND = 8  # steps after which a validation comes at the end of an epoch, and is no trial run
POOL = 16.0  # items
FAR_OFF = 4.0  # times the loss of outputs of 0
SPIKE = 8.0  # sizes of the usual jump


class Reading:
    """A training as far as it has come.

    facts: what exact checks and the watch know besides: `loss_kind`, `epoch` ...
    over: whether the training has ended (or has had all its planned steps)
    """

    def __init__(self, signals: Signals, over: bool = False, planned: int | None = None) -> None:
        self.signals, self.over, self.planned = signals, over, planned
        self.facts: dict[str, Any] = signals.facts
        self.counts: Counts = signals.counts
        self.looks: list[Look] = signals.looks.items

    # -- the loss ------------------------------------------------------------------------------------------------

    @cached_property
    def at(self) -> Floats:
        """The steps of what follows."""
        return self.signals.column("step")

    @cached_property
    def losses(self) -> Floats:
        """The loss of each kept step; of what is to grow, the opposite."""
        losses = self.signals.column("loss")
        return -losses if self.facts.get("maximize") else losses

    @cached_property
    def steps(self) -> int:
        """How many steps have been taken."""
        return int(self.at[-1]) if len(self.at) else 0

    @cached_property
    def finite(self) -> Floats:
        """The finite losses."""
        return self.losses[np.isfinite(self.losses)]

    @cached_property
    def pooled(self) -> Floats:
        """The finite losses; of batches of few items the means of several, for single items' losses say little."""
        together = max(1, round(POOL / self.data_batch)) if self.data_batch else 1
        count = len(self.finite) // together
        if together == 1 or count < 8:
            return self.finite
        return self.finite[len(self.finite) - count * together :].reshape(count, together).mean(1)

    @cached_property
    def start(self) -> float:
        """The loss at the start."""
        return median(self.finite[:3])

    @cached_property
    def level(self) -> float:
        """The loss now: the median of the last tenth, of five steps at least."""
        return median(self.pooled[-max(5, len(self.pooled) // 10) :])

    @cached_property
    def smooth(self) -> Floats:
        """The loss as medians of 16 parts of the training, or fewer."""
        if len(self.finite) < 8:
            return self.finite
        parts = np.array_split(self.pooled, min(16, len(self.pooled) // 4))
        return np.array([median(part) for part in parts])

    @cached_property
    def best(self) -> float:
        """The lowest that the smoothed loss has been."""
        return float(self.smooth.min()) if len(self.smooth) else NAN

    @cached_property
    def noise(self) -> float:
        """The spread of the loss from step to step, about its course, in the last half."""
        tail = self.finite[len(self.finite) // 2 :]
        if len(tail) < 4:
            return NAN
        return 1.4826 * median(np.abs(np.diff(tail))) / math.sqrt(2)

    @cached_property
    def base(self) -> float:
        """The loss of a model that knows only how often each target comes; NaN where that is unknown."""
        base, blank = base_rate(self.signals), blank_loss(self.signals)
        return math.nan if base < 1e-6 * blank else base  # targets of one value say nothing

    @cached_property
    def far_off(self) -> bool:
        """Whether the first loss is far above that of outputs of 0, and not for a penalty beside it."""
        first = float(self.finite[0]) if len(self.finite) else NAN
        return first * (1 - float(self.facts.get("beside", 0.0))) > FAR_OFF * blank_loss(self.signals)

    @cached_property
    def reference(self) -> float:
        """What the loss must be below to show that anything was learnt: the base rate, or where the loss began."""
        return self.base if math.isfinite(self.base) and self.base > 1e-12 * abs(self.start) else self.start

    @cached_property
    def learned(self) -> float:
        """The share of the way from the reference to 0 that the loss has come, by its lowest level; below 0: none."""
        low = min(self.best, self.level)
        scale = abs(self.reference)
        return (self.reference - low) / scale if scale else 0.0

    @cached_property
    def now(self) -> float:
        """The same by its present level."""
        scale = abs(self.reference)
        return (self.reference - self.level) / scale if scale else 0.0

    @cached_property
    def slope(self) -> float:
        """How far the loss fell in the last half of the training, relative to its level before that; with `sure` the
        number of standard errors that this is from 0."""
        return self._fall[0]

    @cached_property
    def sure(self) -> float:
        return self._fall[1]

    @cached_property
    def _fall(self) -> tuple[float, float]:
        tail = self.pooled[len(self.pooled) // 2 :]
        if len(tail) < 8:
            return NAN, 0.0
        one, two = np.array_split(tail, 2)
        a, b = median(one), median(two)
        error = 1.25 * math.hypot(_spread(one) / math.sqrt(len(one)), _spread(two) / math.sqrt(len(two)))
        return (a - b) / (abs(a) or 1.0), (a - b) / (error or 1e-300)

    @cached_property
    def wild(self) -> float:
        """How much the loss jumps from step to step, relative to its level, in the last half."""
        return self.noise / abs(self.level) if self.level else NAN

    @property
    def spikes(self) -> list[int]:
        """The places of single losses that are as bad as if nothing had been learnt, amid others far better."""
        return self._spikes[0]

    @property
    def apart(self) -> float:
        """How many times as high the least of the spikes is as the highest jump that is none. What makes large losses
        now and then by its nature makes some of every height; bad batches stand apart."""
        return self._spikes[1]

    @cached_property
    def _spikes(self) -> tuple[list[int], float]:
        x, half = self.losses, 5
        if len(x) < 24 or not len(self.finite):
            return [], NAN
        way = abs(self.reference - min(self.best, self.level))
        whole = np.where(np.isfinite(x), x, self.finite.max())
        if float(whole[4:].max() - self.finite.min()) <= way:
            return [], NAN  # most often; the rest takes its time
        beside = np.lib.stride_tricks.sliding_window_view(np.pad(whole, half, mode="edge"), 2 * half + 1)
        above = whole - np.partition(beside, half, axis=1)[:, half]
        high = (above > SPIKE * 1.4826 * median(np.abs(above))) & (above > way)
        high[:4] = False  # the start
        beside = high | np.roll(high, 1) | np.roll(high, 2)  # what a spike has thrown off its course
        rest = above[8:][~beside[8:]]
        if not high.any() or not len(rest):
            return np.nonzero(high)[0].tolist(), NAN
        least = float(above[high].min())
        return np.nonzero(high)[0].tolist(), least / max(float(rest.max()), 1e-12 * least)

    # -- gradients and updates --------------------------------------------------------------------------------------

    @cached_property
    def norms(self) -> Floats:
        """The gradient norms that were measured."""
        norms = self.signals.column("grad_norm")
        return norms[~np.isnan(norms)]

    @cached_property
    def matrices(self) -> Mask:
        return np.array(self.signals.matrices, bool)

    def recent(self, name: str, share: float = 0.5) -> Floats:
        """A number of the looks of the last part of the training, where it is known."""
        values = np.array([getattr(look, name) for look in self.late(share)], float)
        return values[np.isfinite(values)]

    def late(self, share: float = 0.5) -> list[Look]:
        """The looks of the last part of the training, two at least."""
        begin = self.steps * (1 - share)
        found = [look for look in self.looks if look.step > begin]
        return found if len(found) >= 2 else self.looks[-2:]

    @cached_property
    def _ratios(self) -> Floats:
        """For each look the median of update / weight over the matrices, decay included; NaN where unknown."""
        with np.errstate(all="ignore"):
            table = [(look.update / look.weight)[self.matrices] for look in self.looks]
        return np.array([median(row[np.isfinite(row)]) for row in table], float)

    @cached_property
    def ratios(self) -> Floats:
        """Update / weight at the looks of the last half."""
        late = self.late()
        values = self._ratios[len(self.looks) - len(late) :]
        return values[np.isfinite(values)]

    @cached_property
    def depth(self) -> float:
        """The gradient of the first matrices relative to the last ones', by size of an element; median of the looks."""
        found: list[float] = []
        for look in self.looks:
            grads = look.grad[self.matrices] if len(self.matrices) == len(look.grad) else look.grad
            grads = grads[grads > 0] if bool(np.isfinite(grads).all()) else grads[:0]  # what is not used has none
            if len(grads) >= 4:
                part = max(1, len(grads) // 4)
                found.append(median(grads[:part]) / max(median(grads[-part:]), 1e-300))
        return median(found) if found else 1.0

    @cached_property
    def largest(self) -> float:
        """The largest update / weight of the looks. The first ones count only where the loss leapt up after them, as
        weights that begin at 0 grow by much of themselves."""
        values = self._ratios
        if len(values) > 6 and not self.burst:
            values = values[3:]
        values = values[np.isfinite(values)]
        return float(values.max()) if len(values) else NAN

    @cached_property
    def burst(self) -> bool:
        """Whether the loss leapt up in the first steps."""
        first = self.losses[: max(8, len(self.losses) // 16)]
        return len(first) > 1 and not bool((first[1:] < 1.5 * abs(first[0]) + first[0]).all())

    @cached_property
    def usual(self) -> float:
        """The median of update / weight in the last half."""
        return median(self.ratios)

    @cached_property
    def early_overshoot(self) -> float:
        """`overshoot` of the first looks."""
        return median(self._first("overshoot"))

    @cached_property
    def early_agreement(self) -> float:
        """`agreement` of the first looks."""
        return median(self._first("cosine"))

    def _first(self, name: str) -> Floats:
        values = np.array([getattr(look, name) for look in self.looks[:8]], float)
        return values[np.isfinite(values)]

    @property
    def data_batch(self) -> float:
        """Items of a batch; 0 where unknown."""
        return self.signals.batches.train.size

    @cached_property
    def overshoot(self) -> float:
        """The median of the slope along the update after the step, relative to that before it."""
        return median(self.recent("overshoot"))

    @cached_property
    def agreement(self) -> float:
        """The median of the cosine between successive gradients."""
        return median(self.recent("cosine"))

    def layer(self, name: str) -> dict[str, float]:
        """For each layer that ran the median over the late looks of a number of what enters it."""
        column = self._layers[:, FIELDS.index(name)].tolist() if len(self._layers) else ()
        return {place: m for place, m in zip(self.signals.layers, column, strict=False) if math.isfinite(m)}

    @cached_property
    def _layers(self) -> Floats:
        tables = [look.layers for look in self.late() if len(look.layers)]
        if not tables:
            return np.zeros((0, len(FIELDS)))
        # NaN, of layers that did not run, is sorted last; infinity is a number
        table = np.sort(np.array(tables), axis=0)
        known = (~np.isnan(table)).sum(0)
        low, high = np.maximum(known - 1, 0) // 2, np.minimum(known // 2, len(table) - 1)
        with np.errstate(invalid="ignore"):
            return (np.take_along_axis(table, low[None], 0) + np.take_along_axis(table, high[None], 0))[0] / 2

    @cached_property
    def validated(self) -> list[float]:
        """The finite losses of validations."""
        return [v.loss for v in self.signals.validations.items if math.isfinite(v.loss)]

    @property
    def seen_all(self) -> bool:
        """Whether the training data have been seen once: an epoch, as far as one can tell."""
        validated = any(v.step >= ROUND for v in self.signals.validations.items)
        return self.over or "epoch" in self.facts or validated

    @cached_property
    def lrs(self) -> Floats:
        return self.signals.column("lr")


def median(values: ArrayLike) -> float:
    """The median; NaN of nothing. Several times as fast as numpy's on the few numbers that it is asked of."""
    found = np.sort(np.asarray(values, float), axis=None)
    n = len(found)
    return float((found[(n - 1) // 2] + found[n // 2]) / 2) if n and found[-1] == found[-1] else NAN


def _spread(values: Floats) -> float:
    return 1.4826 * median(np.abs(values - median(values)))
