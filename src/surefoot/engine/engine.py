"""One step of an optimizer: measure the gradients, decide, move the parameters, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from surefoot.engine import common, gpu, precondition, reference, transform
from surefoot.engine.gradient import Gradient
from surefoot.engine.launch import SUMS
from surefoot.engine.options import Options
from surefoot.engine.plan import Plan, State
from surefoot.engine.report import Report
from surefoot.engine.sums import Sums
from surefoot.engine.update import Scales, Update

NOTHING: Mapping[int, Tensor] = {}


class Engine:
    """What runs the steps of one optimizer. It keeps a plan, and nothing that could not be made anew."""

    def __init__(self) -> None:
        self._plan: Plan | None = None

    def step(
        self,
        updates: Sequence[Update],
        state: State,
        options: Options,
        loss_scale: float | Tensor = 1.0,
        overflow: Tensor | None = None,
    ) -> Report:
        """Take a step, or skip it and say why.

        Args:
            updates: one for each parameter group
            state: what is kept for each parameter; entries are made for those that move
            loss_scale: what the gradients are divided by
            overflow: if it is not 0, the step is skipped: the loss scaler's `found_inf`

        Raises:
            UserError: where clipping was told to refuse a norm that is not finite, or a CUDA graph is captured that
                would not hold the whole step; nothing has moved then
        """
        plan, self._plan = self._plan, None  # whatever fails below, nothing relies on the plan any more
        fresh = plan is None or not plan.fits(updates, state, options)
        if plan is None or fresh:
            gpu.refuse_capture("it is the first, or parameters or states have changed: take a few steps before")
            plan = Plan(updates, state, options, plan)
        try:
            report, scales = decide(plan, updates, options, loss_scale, overflow)
        except BaseException:
            plan.undo(state)
            raise
        if scales is None:
            plan.undo(state)
            self._plan = None if fresh else plan
            if options.zero_grad_in_step:
                clear_gradients(updates)
            return report
        # where gradients share memory, all must have been read before the first is cleared
        if options.transforming:
            scales.gradients = transform.gradients(plan, updates, options, scales)
        read = not plan.items and not scales.gradients
        clear = options.zero_grad_in_step and read and not plan.gradients_overlap()
        launched = options if clear == options.zero_grad_in_step else replace(options, zero_grad_in_step=False)
        given = precondition.directions(plan, updates, options, scales) if plan.given else NOTHING
        sums = [lane.begin(updates, scales, launched) for lane in plan.lanes]
        if plan.common:
            common.settle(plan, updates, scales, options, sums)
        lanes = [lane.step(updates, launched, given) for lane in plan.lanes]
        items = [
            reference.step(item, updates[item.group], options, scales, given.get(item.number))
            for item in plan.items
            if item.p.grad is not None
        ]
        report.sums = Sums(plan, lanes, items, len(SUMS["update"]))
        for lane in plan.lanes:  # autograd must notice that what it may have kept was written over
            torch.autograd.graph.increment_version(lane.moved())
            if clear:
                lane.release()
        if options.zero_grad_in_step and not clear:
            clear_gradients(updates)
        if fresh:
            plan.keep()
        self._plan = plan
        return report


def decide(
    plan: Plan, updates: Sequence[Update], options: Options, loss_scale: float | Tensor, overflow: Tensor | None
) -> tuple[Report, Scales | None]:
    """Measure the gradients, and say what they are multiplied by; None: nothing is to move.

    What is decided on a device is not waited for here.
    """
    late = plan.late(options)
    if late:  # the scaler will change its tensor before anybody reads the report
        loss_scale = loss_scale.clone() if isinstance(loss_scale, Tensor) else loss_scale
    else:
        gpu.refuse_capture("a clip function, error_if_nonfinite or parameters that no kernel takes need the CPU")
        loss_scale = float(loss_scale)
        overflow = overflow if overflow is not None and overflow.item() else None
    measured = options.measured and (late or overflow is None)
    gradient = Gradient(plan, len(updates), options, loss_scale) if measured else None
    unclipped = [update.clip_factor for update in updates]
    report = Report(gradient, unclipped, options.skip_nonfinite, loss_scale, overflow, late)
    if not late and report.reason:
        return report, None
    factors = unclipped if late else report.clip_factors
    on_device, known = (loss_scale, 1.0) if isinstance(loss_scale, Tensor) else (None, loss_scale)
    signs = [-1.0 if update.maximize else 1.0 for update in updates]
    scales = Scales([sign * factor / known for sign, factor in zip(signs, factors, strict=True)])
    if gradient is not None and not late and gradient.of_tensors:
        of = gradient.of_tensors
        named = zip(plan.planned, plan.names, strict=True)
        scales.tensors = {item.number: of[name] for item, name in named if name in of}
    if late:
        scales.loss_scale, scales.overflow = on_device, overflow
        scales.found = gpu.found(plan.lanes, gradient.rows, len(updates), options) if gradient is not None else None
    return report, scales


def clear_gradients(updates: Sequence[Update]) -> None:
    """Set all gradients to zero, as torch's zero_grad(set_to_none=False) does."""
    with torch.no_grad():
        for p in (p for update in updates for p in update.params):
            if p.grad is not None:
                p.grad.zero_()
                if p.grad.requires_grad:
                    p.grad = p.grad.detach()
