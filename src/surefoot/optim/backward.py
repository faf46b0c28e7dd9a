"""Steps taken inside of the backward pass: each parameter moves as its gradient arrives, which is then freed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from surefoot.engine.engine import Engine
from surefoot.engine.gradient import factor
from surefoot.engine.options import AGC, Clip
from surefoot.engine.report import Report
from surefoot.engine.update import Update
from surefoot.errors import UserError

if TYPE_CHECKING:
    from surefoot.optim.optimizer import Optimizer


class StepInBackward:
    """What `Optimizer.step_in_backward` returns.

    active: whether it is in force; `remove()` ends it
    """

    def __init__(self, optimizer: Optimizer, every: int, update: Callable[[dict[str, Any]], Update]) -> None:
        if type(every) is not int or every < 1:
            raise UserError(f"step_in_backward: every={every!r}: it must be a whole number, 1 or more")
        self._optimizer, self._every, self._update = optimizer, every, update
        self._clip = _clip(optimizer)
        self._options = replace(optimizer.options, clip_norm=None, zero_grad_in_step=False)
        self._factors: list[float] = []  # by which this step's gradients are clipped, one for each group
        self._tracks: dict[Tensor, _Track] = {}
        self._follow()
        self.active = True

    def remove(self) -> None:
        """Leave the gradients to `step()` again, also those that are there now."""
        for track in self._tracks.values():
            track.release()
        self.active = False

    def close(self) -> Report:
        """End a step: move what still has a gradient, and report on all that moved."""
        if getattr(self._optimizer, "grad_scale", None) is not None:
            raise UserError(
                "step_in_backward: the gradients were used as GradScaler had scaled them: train without the one or the "
                "other (bfloat16 needs no scaler)"
            )
        self._follow()
        for p, track in self._tracks.items():
            if p.grad is not None:
                self._move(p, track)
        found = [(track.group, track.report) for track in self._tracks.values() if track.report is not None]
        report = Whole(self._factors, [part for _, part in found])
        if self._clip is not None:
            self._factors = _factors(self._clip, found, len(self._factors))
        for track in self._tracks.values():
            track.passes, track.report = 0, None
        return report

    def _follow(self) -> None:
        """Learn where the optimizer has its parameters now, and listen to those that are new."""
        groups, before, self._tracks = self._optimizer.param_groups, self._tracks, {}
        for index, group in enumerate(groups):
            for place, p in enumerate(group["params"]):
                track = self._tracks[p] = before.pop(p, None) or _Track([p])
                track.group, track.place, track.number = index, place, len(self._tracks) - 1
                if track.hook is None and p.requires_grad:
                    track.hook = p.register_post_accumulate_grad_hook(self._arrived)
        for track in before.values():
            track.release()
        self._factors = [*self._factors, *[1.0] * (len(groups) - len(self._factors))]

    def _arrived(self, p: Tensor) -> None:
        """A backward pass has added to a parameter's gradient."""
        track = self._tracks[p]
        track.passes += 1
        groups = self._optimizer.param_groups[track.group :][:1]
        here = any(p is q for group in groups for q in group["params"][track.place :][:1])
        if here and track.passes % self._every == 0:  # one that was moved elsewhere waits for `close`
            self._move(p, track)

    def _move(self, p: Tensor, track: _Track) -> None:
        update, states = self._update(self._optimizer.param_groups[track.group]), self._optimizer.state
        alone = update.alone(track.group, track.place, track.params, track.number, self._factors[track.group])
        # the engine looks through all states that it is shown, at each step: those of the others would take their time
        if p in states:
            track.state[p] = states[p]
        else:
            track.state.clear()
        with torch.no_grad():
            track.report = track.engine.step([alone], track.state, self._options)
        states.update(track.state)
        p.grad = None


@dataclass
class _Track:
    """A parameter on its own.

    passes: the backward passes that have reached it in this step
    report: of its move in this step, if it has moved
    """

    params: list[Tensor]
    hook: RemovableHandle | None = None
    group: int = 0
    place: int = 0
    number: int = 0
    passes: int = 0
    report: Report | None = None
    engine: Engine = field(default_factory=Engine)
    state: defaultdict[Tensor, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))

    def release(self) -> None:
        if self.hook is not None:
            self.hook.remove()


class Whole(Report):
    """The reports of all parameters as one."""

    def __init__(self, factors: Sequence[float], parts: Sequence[Report]) -> None:
        super().__init__(None, factors, False, 1.0, None)
        self.parts = parts

    @cached_property
    def grad_norm(self) -> float:
        return math.hypot(*self.grad_norms.values())

    @cached_property
    def grad_norms(self) -> dict[str, float]:
        return {name: norm for part in self.parts for name, norm in part.grad_norms.items()}

    @cached_property
    def update_ratio(self) -> dict[str, float]:
        return {name: ratio for part in self.parts for name, ratio in part.update_ratio.items()}

    @cached_property
    def cosine(self) -> dict[str, float]:
        return {name: cosine for part in self.parts for name, cosine in part.cosine.items()}


def refuse_steps_in_backward(optimizer: torch.optim.Optimizer, owner: str) -> None:
    """Refuse an optimizer whose parameters move in the backward pass."""
    handle = getattr(optimizer, "_in_backward", None)
    if handle is not None and handle.active:
        raise UserError(f"{owner}: with step_in_backward the parameters move too early: remove() that, or use it alone")


def _clip(optimizer: Optimizer) -> Clip | None:
    """How norms are clipped; refuses what cannot be had in a backward pass."""
    clip = optimizer.options.clip_norm
    if any(rule.common for rule in optimizer.rules):
        name = type(optimizer).__name__
        raise UserError(f"step_in_backward: {name} learns its rate from all gradients, before any parameter moves")
    refused = {
        "skip_nonfinite": optimizer.options.skip_nonfinite,
        "differentiable": any(group.get("differentiable") for group in optimizer.param_groups),
        "clip_norm=AGC(...)": isinstance(clip, AGC),
        "a clip_norm function": clip is not None and callable(clip.max_norm),
        "clip_norm with error_if_nonfinite": clip is not None and clip.error_if_nonfinite,
        "clip_norm of another norm than 2": clip is not None and clip.norm_type != 2,
    }
    for name, found in refused.items():
        if found:
            raise UserError(
                f"step_in_backward: {name} needs all gradients before the first parameter moves: leave it out"
            )
    params = [p for group in optimizer.param_groups for p in group["params"]]
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    # a sharded parameter's gradient arrives when all processes have shared it
    if several and torch.distributed.get_world_size() > 1 and not all(hasattr(p, "full_tensor") for p in params):
        raise UserError(
            "step_in_backward: a gradient arrives before DistributedDataParallel has averaged it over the processes: "
            "use fully_shard, or step() alone"
        )
    return clip


def _factors(clip: Clip, moved: Sequence[tuple[int, Report]], groups: int) -> list[float]:
    """By what gradients are clipped after a step: one factor for each group."""
    assert not callable(clip.max_norm)
    norms = [math.hypot(*(part.grad_norm for group, part in moved if group == index)) for index in range(groups)]
    return [factor(clip.max_norm, norm if clip.per_group else math.hypot(*norms)) for norm in norms]
