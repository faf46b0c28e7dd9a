"""One step of an optimizer: measure the gradients, decide, move the parameters, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from surefoot.engine import reference
from surefoot.engine.gradient import Gradient
from surefoot.engine.launch import SUMS
from surefoot.engine.options import Options
from surefoot.engine.plan import Plan, State
from surefoot.engine.report import Report
from surefoot.engine.sums import Sums
from surefoot.engine.update import Update


class Engine:
    """What runs the steps of one optimizer. It keeps a plan, and nothing that could not be made anew."""

    def __init__(self) -> None:
        self._plan: Plan | None = None

    def step(self, updates: Sequence[Update], state: State, options: Options, loss_scale: float = 1.0) -> Report:
        """Take a step, or skip it and say why.

        Args:
            updates: one for each parameter group
            state: what is kept for each parameter; entries are made for those that move
            loss_scale: what the gradients are divided by

        Raises:
            UserError: where clipping was told to refuse a norm that is not finite; nothing has moved then
        """
        plan, self._plan = self._plan, None  # whatever fails below, nothing relies on the plan any more
        fresh = plan is None or not plan.fits(updates, state, options)
        if plan is None or fresh:
            plan = Plan(updates, state, options, plan)
        reason = ""
        try:
            gradient = Gradient(plan, len(updates), options, 1 / loss_scale) if options.measured else None
            if gradient is not None and options.skip_nonfinite:
                reason = gradient.fault()
            factors = gradient.factors() if gradient and not reason else [update.clip_factor for update in updates]
        except BaseException:
            plan.undo(state)
            raise
        if reason:
            plan.undo(state)
            self._plan = None if fresh else plan
            return self.skip(updates, options, reason, gradient)

        signs = [-1.0 if update.maximize else 1.0 for update in updates]
        scales = [sign * factor / loss_scale for sign, factor in zip(signs, factors, strict=True)]
        # where gradients share memory, all must have been read before the first is cleared
        clear = options.zero_grad_in_step and not plan.items and not plan.gradients_overlap()
        launched = options if clear == options.zero_grad_in_step else replace(options, zero_grad_in_step=False)
        lanes = [lane.step(updates, scales, launched) for lane in plan.lanes]
        items = [
            reference.step(item, updates[item.group], options, scales[item.group])
            for item in plan.items
            if item.p.grad is not None
        ]
        sums = Sums(plan, lanes, items, len(SUMS["update"]))
        for lane in plan.lanes:  # autograd must notice that what it may have kept was written over
            torch.autograd.graph.increment_version(lane.moved())
            if clear:
                lane.release()
        if options.zero_grad_in_step and not clear:
            clear_gradients(updates)
        if fresh:
            plan.keep()
        self._plan = plan
        return Report("", factors, sums, gradient, 1 / loss_scale)

    def skip(
        self, updates: Sequence[Update], options: Options, reason: str, gradient: Gradient | None = None
    ) -> Report:
        """Leave everything as it is, but for gradients that the step was to clear: the next ones would add to them."""
        if options.zero_grad_in_step:
            clear_gradients(updates)
        return Report(reason, _gradient=gradient)


def clear_gradients(updates: Sequence[Update]) -> None:
    """Set all gradients to zero, as torch's zero_grad(set_to_none=False) does."""
    with torch.no_grad():
        for p in (p for update in updates for p in update.params):
            if p.grad is not None:
                p.grad.zero_()
                if p.grad.requires_grad:
                    p.grad = p.grad.detach()
