"""Steps of which only loss and learning rate are kept, at next to no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from surefoot.watch.passed import Passed, numbers

MOST = 32  # steps that are read together: their losses may be on a device, and their batches are held on to until then
HELD = 1 << 18  # elements of a batch beyond which it is not held on to


class Light:
    """Takes note of passes and steps where nothing else is watched. What it does in a step is as little as can be:
    after a backward pass nothing of ours is in the processor's caches, and each line costs ten times what it seems to.

    on: whether these are such steps; usual: how many passes lead to a step; left: steps until what it has is to be read
    keep: whether batches are small enough to be held on to
    """

    __slots__ = ("_begun", "_ends", "_inputs", "_passes", "_rates", "keep", "left", "on", "usual")

    def __init__(self) -> None:
        self.on, self.keep, self.usual, self.left = False, True, 0, 0
        self._inputs: Any = None
        self._passes: list[tuple[Tensor, Any, Any, Any, bool]] = []
        self._begun = 0  # where the passes of the step under way begin
        self._ends: list[int] = []  # where those of each step end
        self._rates: list[float] = []

    def begin(self, steps: int) -> None:
        """From now on, for so many steps."""
        self.on, self.left = True, min(MOST, steps)

    def enters(self, inputs: Any) -> None:
        if self.keep:
            self._inputs = inputs

    def passed(self, loss: Tensor, targets: Any, criterion: Any, training: bool) -> Passed | None:
        """A loss was worked out.

        Returns:
            the pass that this shows to have been none that leads to a step
        """
        passes = self._passes
        more = criterion is None and len(passes) > self._begun and passes[-1][3] is not None
        if more:  # the user says more of the same pass
            passes.pop()
        passes.append((loss.detach(), self._inputs, targets if self.keep else None, criterion, training))
        if len(passes) - self._begun <= self.usual:
            return None
        return _pass(*passes.pop(self._begun))

    def stepped(self, rate: float) -> bool:
        """A step is taken; whether what was noted is to be read."""
        self._begun = len(self._passes)
        self._ends.append(self._begun)
        self._rates.append(rate)
        self.left -= 1
        return self.left <= 0

    def read(self) -> Iterator[tuple[list[float], float, Callable[[], Passed]]]:
        """Of each step since the last reading the losses, the rate, and what makes its last pass, if that is wanted."""
        ends, rates, passes = self._ends, self._rates, self._passes
        self._ends, self._rates, self._passes = [], [], passes[self._begun :]
        losses, begin = numbers([one[0] for one in passes[: self._begun]]), 0
        self._begun = 0
        for end, rate in zip(ends, rates, strict=True):
            yield losses[begin:end], rate, partial(_pass, *passes[end - 1])
            begin = end

    def pending(self) -> list[Passed]:
        """The passes since the last step, which turn out to lead to none."""
        found = [_pass(*one) for one in self._passes[self._begun :]]
        del self._passes[self._begun :]
        return found

    def forget(self) -> None:
        self._inputs = None


def _pass(loss: Any, inputs: Any, targets: Any, criterion: Any, training: bool) -> Passed:
    return Passed(loss, None, targets, inputs, None, training, criterion)
