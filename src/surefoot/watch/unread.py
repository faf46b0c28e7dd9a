"""Steps whose numbers are still to be read: they may be on a device, which is waited for once for many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

from torch import Tensor

from surefoot.watch.passed import NAN, Passed, numbers
from surefoot.watch.signals import Signals, Step

MOST = 16  # steps that are read together
LEAP, EARLY, MOST_LEAPS = 5.0, 8, 32  # times the usual size of a loss; not in the first steps; looked at
BROKEN = 4  # steps without a finite loss whose data are looked at in any case


class Unread:
    """Takes the numbers of steps, and writes them to the signals when they are read; at once, if none is on a device.

    Args:
        odd: is shown the pass of a step whose loss is no finite number, or far larger than those before
    """

    def __init__(self, signals: Signals, odd: Callable[[Passed], None]) -> None:
        self.signals, self._odd = signals, odd
        self._usual = NAN  # the size of recent losses
        self._steps: list[tuple[int, Sequence[Passed], float, Tensor | float, int, float]] = []

    def add(
        self, step: int, passes: Sequence[Passed], lr: float, norm: Tensor | float, backwards: int, clip: float
    ) -> None:
        if not isinstance(norm, Tensor) and not self._steps and not any(isinstance(one.loss, Tensor) for one in passes):
            loss = mean([float(one.loss) for one in passes])
            self.take(Step(step, loss, lr, norm, _weight(passes), backwards, clip), _last(passes))
            return
        for one in passes:
            one.outputs = None
            if one.large:
                one.inputs = one.targets = None
        self._steps.append((step, passes, lr, norm, backwards, clip))
        if len(self._steps) >= MOST:
            self.read()

    def read(self) -> None:
        """Read all that are waiting."""
        steps, self._steps = self._steps, []
        values = iter(numbers([x for _, passes, _, norm, _, _ in steps for x in (*(p.loss for p in passes), norm)]))
        for step, passes, lr, _, backwards, clip in steps:
            loss = mean([next(values) for _ in passes])
            self.take(Step(step, loss, lr, next(values), _weight(passes), backwards, clip), _last(passes))

    def take(self, step: Step, last: Callable[[], Passed] | None) -> None:
        """Write down a step whose numbers are read.

        Args:
            last: gives its last pass, whose data are looked at where the loss is out of the ordinary; None of no pass
        """
        self.signals.steps.append(step)
        if last is None:
            return
        if isfinite(step.loss):
            self._note_leap(step, last)
            return
        self.signals.counts.add("broken_losses", step.step)
        if self.signals.counts.broken_losses <= BROKEN:
            self._odd(last())

    def _note_leap(self, step: Step, last: Callable[[], Passed]) -> None:
        """Look at the data of a step whose loss is far larger than those before."""
        size = abs(step.loss)
        leaps: list[int] = self.signals.facts.setdefault("leaps", [])
        if size > LEAP * self._usual and step.step > EARLY and len(leaps) < MOST_LEAPS:
            leaps.append(step.step)
            self._odd(last())
        else:
            self._usual = size if self._usual != self._usual else 0.9 * self._usual + 0.1 * size


def mean(losses: Sequence[float]) -> float:
    """Their mean; NaN of none."""
    return sum(losses) / len(losses) if losses else NAN


def _last(passes: Sequence[Passed]) -> Callable[[], Passed] | None:
    return (lambda: passes[-1]) if passes else None


def _weight(passes: Sequence[Passed]) -> float:
    """The gradient that reached the last loss."""
    weight = passes[-1].weight if passes else None
    return NAN if weight is None else float(weight)
