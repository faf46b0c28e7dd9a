"""Passes that lead to no step: validations, and losses that somebody wanted to know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.watch.passed import NAN, Passed, number
from surefoot.watch.signals import Signals, Validation

LOOKED_AT = 4  # passes of a validation


class Validations:
    """Adds up what is seen of a validation until it is over: when the next step is taken, or the user says so.

    moody: whether the model works otherwise in training than in evaluation
    """

    def __init__(self, signals: Signals, moody: bool) -> None:
        self.signals, self.moody = signals, moody
        self._losses: list[float] = []
        self._passes = 0
        self._peeked: list[tuple[Any, bool]] = []  # passes without gradients whose loss is not known

    @property
    def under_way(self) -> bool:
        return self._passes > 0 or bool(self._peeked)

    def peek(self, inputs: Any, training: bool) -> None:
        """The model is called without gradients, in training mode or not."""
        self._peeked = [*self._peeked[1 - LOOKED_AT :], (inputs, training)]

    def peeked(self, inputs: Any) -> bool:
        """Whether the model was last called with these inputs, without gradients."""
        return any(each[0] is inputs for each in self._peeked)

    def add(self, one: Passed, step: int, told: bool, own: bool = True) -> None:
        """A pass whose loss leads to no step.

        Args:
            told: whether the user says that it is validation; of training items it is none otherwise
            own: whether it is known to be one of this model, and not of a teacher's or an averaged one
        """
        self._peeked = [peeked for peeked in self._peeked if peeked[0] is not one.inputs]
        if self._passes < LOOKED_AT and own:
            if not told and self.signals.batches.known(one.inputs) > 0.5:
                return
            self._note(one.inputs, one.targets)
            self._note_mode(one.training, step)
        self._passes += 1
        if isinstance(one.loss, float):
            self._losses.append(one.loss)
        elif isinstance(one.loss, Tensor) and one.loss.numel():
            self._losses.append(float(number(one.loss)))

    def end(self, step: int, loss: float = NAN, metric: float = NAN, higher: bool = True) -> None:
        """It is over; the user may have said what it gave."""
        told = loss == loss or metric == metric
        self._sort_out_peeked(step, told)
        losses, passes, self._losses, self._passes = self._losses, self._passes, [], 0
        if not passes and not told:
            return
        if loss != loss and losses:
            loss = sum(losses) / len(losses)
        self.signals.counts.validations += 1
        self.signals.validations.append(Validation(step, loss, metric, higher, passes))

    def _sort_out_peeked(self, step: int, told: bool) -> None:
        """Passes without gradients and without a loss: validation if the model is in that mode, or the user says so."""
        peeked, self._peeked = self._peeked, []
        for place, (inputs, training) in enumerate(peeked, 1):
            last = place == len(peeked)  # those before may have measured batch norm's statistics anew
            refreshes = training and (self._passes > 0 or not (told and last))
            if refreshes or (not told and self.signals.batches.known(inputs) > 0.5):
                continue
            self._note(inputs, None)
            self._note_mode(training, step)

    def _note_mode(self, training: bool, step: int) -> None:
        if self.moody and training:
            self.signals.counts.add("validated_in_train_mode", step)

    @torch.no_grad()
    def _note(self, inputs: Any, targets: Any) -> None:
        self.signals.batches.val.add_inputs(inputs)
        self.signals.batches.val.add_targets(targets)
