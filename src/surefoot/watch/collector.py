"""The hooks of a watch, and what is measured when they are called."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surefoot.optim.places import modules
from surefoot.watch.due import Due
from surefoot.watch.glance import Glance
from surefoot.watch.light import HELD, Light
from surefoot.watch.pace import Pace
from surefoot.watch.passed import NAN, Passed, number
from surefoot.watch.passes import Passes
from surefoot.watch.picks import Floats
from surefoot.watch.signals import Signals, Step
from surefoot.watch.tracked import Tracked
from surefoot.watch.unread import Unread, mean
from surefoot.watch.validations import Validations
from surefoot.watch.wiring import compiled, moody, named, plain

DENSE = 16  # steps whose data are all looked at
CLOSELY = 32  # steps that are all watched closely; of later ones some are, and of the others only the loss
MANY = 64  # tensors; the norms of more are worked out only where a step is looked at
OF_PAIRS = (nn.MarginRankingLoss, nn.CosineEmbeddingLoss, nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss)
KEPT = 8  # batches that are kept to try things out on


class Collector:
    """Attaches hooks to a model, its optimizers and its loss, and fills `signals`.

    Draws no random number, changes nothing, and holds no graph longer than a step.

    kept: copies of the last batches that were looked at: what the model was called with, and the targets

    Args:
        look_at: is shown a pass between forward and backward, at the steps that are looked at; and once more when
            backward reaches its outputs, with the gradient there
        stepped: is told of each step that is watched closely
        guard: runs what hooks have to do, and deals with its errors
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        criterion: nn.Module | None,
        look_at: Callable[[Passed, Tensor | None], None],
        stepped: Callable[[int], None],
        guard: Callable[..., None],
    ) -> None:
        self.model, self.criterion = model, criterion
        self.tracked = [Tracked(optimizer) for optimizer in optimizers]
        self.signals, self.step = Signals(), 0
        self.validating = False  # within `with watch.validation()`
        self.kept: deque[tuple[Any, Any]] = deque(maxlen=KEPT)
        self._moody = moody(model)
        self._named = named(model)
        self.glance = Glance(model, self._named, self.signals, inner=not compiled(model))
        self._validations = Validations(self.signals, self._moody)
        self._unread = Unread(self.signals, self._odd)
        self._pace = Pace()
        self._look_at, self._stepped, self._guard = look_at, stepped, guard
        self._data_due = Due(every=256, growth=1.4, first=DENSE)
        self._close_due = Due(every=128, growth=1.25, first=CLOSELY)
        self._light, self._until = Light(), 0
        self._passes = Passes(self._backward_begins, self._show, guard)
        self._scaled = self._looking = False
        self._within = False  # a step that calls a closure for its gradients
        self._inputs: Any = None
        self._norms: list[Tensor | float] = []
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Set all hooks."""
        self._handles.append(self.model.register_forward_pre_hook(self._enters, with_kwargs=True))
        if self.criterion is not None:
            self._handles.append(self.criterion.register_forward_hook(self._compared, with_kwargs=True))
        for each in self.tracked:
            if not self._light.on:
                each.attach(self._passes.reached)
            self._handles.append(each.optimizer.register_step_pre_hook(self._before_step(each)))
            self._handles.append(each.optimizer.register_step_post_hook(self._after_step(each)))
        self.glance.prepare(self.step)

    def detach(self) -> None:
        """Remove all hooks, and read what is unread."""
        self.remove()
        self.settle()
        self._passes.take()
        self._inputs = None
        self._light.forget()

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for each in self.tracked:
            each.detach()
        self.glance.drop()

    @contextmanager
    def asleep(self) -> Generator[None]:
        """Within this context nothing is seen."""
        attached = bool(self._handles)
        self.remove()
        try:
            yield
        finally:
            if attached:
                self.attach()

    # -- what hooks call -------------------------------------------------------------------------------------------

    def _enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = (args, kwargs) if kwargs else args[0] if len(args) == 1 else args
        self._inputs = inputs
        if not torch.is_grad_enabled():
            self._validations.peek(inputs, self.model.training)
            self._light.left = 0  # a validation ends with the next step
        elif self._light.on:
            self._light.enters(inputs)
        else:
            self._pace.enters()

    def _compared(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        outputs = args[0] if args else kwargs.get("input")
        targets = args[1] if len(args) > 1 else kwargs.get("target")
        targets = None if isinstance(module, OF_PAIRS) else targets  # what comes second there are outputs as well
        self.passed(loss, outputs, targets, None, None, module)

    def passed(
        self, loss: Any, outputs: Any, targets: Any, inputs: Any = None, indices: Any = None, criterion: Any = None
    ) -> None:
        """A loss has been worked out, by the criterion or as the user says."""
        if self._looking:
            return  # a check asks the criterion
        leads = isinstance(loss, Tensor) and loss.requires_grad and not self.validating
        if not (leads and self._light.on):
            self._guard(self._watched, leads, loss, outputs, targets, inputs, indices, criterion)
            return
        if inputs is not None:
            self._light.enters(inputs)
        none = self._light.passed(loss, targets, criterion, self.model.training)
        if none is not None:
            self._guard(self._evaluated, none)

    def _watched(
        self, leads: bool, loss: Any, outputs: Any, targets: Any, inputs: Any, indices: Any, criterion: Any
    ) -> None:
        """A pass that is watched closely."""
        inputs = self._inputs if inputs is None else inputs
        one = Passed(loss, outputs, targets, inputs, indices, self.model.training, criterion)
        if not leads:
            flat = not isinstance(loss, Tensor) or not loss.requires_grad
            if flat and torch.is_grad_enabled() and one.training and not self.validating:
                self.signals.counts.add("flat_losses", self.step)
            one.loss = loss.detach() if isinstance(loss, Tensor) else loss
            self._evaluated(one, own=torch.is_grad_enabled() or self._validations.peeked(inputs))
            return
        if self.glance.on and not one.large:
            self.kept.append(one.batch())
        forgotten = self._passes.add(one, looked=self.glance.on)
        if forgotten is not None:
            self._evaluated(forgotten)

    def _evaluated(self, one: Passed, own: bool = True) -> None:
        """A pass that leads to no step."""
        self._validations.add(one, self.step, self.validating, own)
        self._light.left = 0

    def _show(self, one: Passed, slope: Tensor | None) -> None:
        self._looking = True
        try:
            self._look_at(one, slope)
        finally:
            self._looking = False

    def _backward_begins(self, one: Passed) -> None:
        counts = self.signals.counts
        counts.backwards += 1
        if self._moody and not one.training:
            counts.add("in_eval_mode", self.step)
        if isinstance(one.weight, float):
            self._scaled = abs(one.weight) > 1.5
        if self._within and self._passes.begun > 1:
            return  # a closure that is called many times clears and moves as it likes
        for each in self.tracked:
            each.begins(counts, self.step, self._scaled)

    def _before_step(self, each: Tracked) -> Callable[..., None]:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.glance.wanted:
                self.glance.before()
            self._within = (len(args) > 1 and args[1] is not None) or kwargs.get("closure") is not None
            if not self._within:
                self._complete(each)

        def guarded(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._light.on:
                self._guard(before, args, kwargs)

        return guarded

    def _complete(self, each: Tracked) -> None:
        """The gradients that a step takes are there."""
        if each.stale:
            self.signals.counts.add("stale", self.step)
        if self.glance.wanted:
            self.glance.complete()
        if self.glance.on:
            self._note_missing(each)
        if not each.ours and (len(each.params) <= MANY or self.glance.wanted):
            norm = each.grad_norm()
            if norm is not None:
                self._norms.append(number(norm))

    def _note_missing(self, each: Tracked) -> None:
        """Take note of parameters that no look has seen a gradient of."""
        facts = self.signals.facts
        held = {id(p) for p in each.params}
        missing = {name for name, p in self._named if p.grad is None and id(p) in held}
        key = f"without {self.tracked.index(each)}"
        facts[key] = sorted(missing if key not in facts else missing & set(facts[key]))
        if facts[key] and self.glance.layers is not None:
            owners = {name.rpartition(".")[0] for name in facts[key]} - {name for name, _ in self.glance.layers.layers}
            self.glance.layers.others = {plain(n): m for n, m in modules(self.model) if plain(n) in owners}

    def _after_step(self, each: Tracked) -> Callable[..., None]:
        def after() -> None:
            if self._within:  # a closure has worked out the gradients
                self._complete(each)
            each.stepped()
            if each is self.tracked[-1] or not self._backwards_left():
                self._end_step()
            self._within = False

        def guarded(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            light = self._light
            if not light.on:
                self._guard(after)
            elif light.stepped(_rate(groups)):
                self._guard(self._end_light)

        groups = each.optimizer.param_groups

        return guarded

    def _backwards_left(self) -> bool:
        """Whether another optimizer is still to step with the gradients that have come."""
        return any(other.accumulated for other in self.tracked)

    # -- what follows ------------------------------------------------------------------------------------------------

    def _end_step(self) -> None:
        self._sort_out()
        validated = self._validations.under_way
        if validated:
            self._validations.end(self.step)
        self._pace.ends(counts=not validated)
        self.step += 1
        passes, begun = self._passes.take()
        lr, norm, clip = self._rates()
        self._unread.add(self.step, passes, lr, norm, begun, clip)
        self.signals.counts.closely += 1
        regular = len(passes) == begun and not (self._within and len(passes) > 1)
        self._light.usual = len(passes) if regular else 0
        self._light.keep = bool(passes) and passes[-1].elements <= HELD
        if passes and self._data_due(self.step - 1):
            self._note_data(passes[-1])
        if self.glance.wanted:
            self.glance.after(self.step, clip)
            waited = self._pace.share()
            if waited is not None:
                self.signals.waits.append(waited)
        self._norms = []
        self._go_on()

    def _end_light(self) -> None:
        """Steps that were not watched closely are to be read, a validation is over, or it is time to watch again."""
        self._read_light()
        validated = self._validations.under_way
        if validated:
            self._validations.end(self.step - 1)
        if self.step < self._until and not validated:
            self._light.begin(self._until - self.step)
        else:
            self._go_on()

    def _read_light(self) -> None:
        if self._light.on:
            self._unread.read()  # those before
        for losses, rate, last in self._light.read():
            self.step += 1
            self.tracked[0].steps += 1
            self._unread.take(Step(self.step, mean(losses), rate, NAN, NAN, len(losses), NAN), last)

    def _go_on(self) -> None:
        """Tell of the step, and choose how the next one is watched."""
        self._stepped(self.step)
        self.glance.prepare(self.step)
        self._choose()
        self._pace.goes_on()

    def _choose(self) -> None:
        """Whether the next step is watched closely, or only its loss. That takes one optimizer, and passes that are all
        known to lead to a step."""
        was, light = self._light.on, self._light
        may = len(self.tracked) == 1 and light.usual > 0 and not self._scaled and not self.glance.wanted
        dues = (self._close_due, self._data_due, self.glance.due)
        self._until = min(due.next(self.step) for due in dues) if may else self.step
        light.on = self._until > self.step
        if light.on:
            light.begin(self._until - self.step)
        if light.on != was:
            for each in self.tracked:
                each.detach() if light.on else each.attach(self._passes.reached)

    def _rates(self) -> tuple[float, Tensor | float, float]:
        """The largest learning rate, the gradient's norm and the clip factor of this step, NaN where not known."""
        lr = max(_rate(each.optimizer.param_groups) for each in self.tracked)
        norm: Tensor | float = NAN
        clip = NAN
        if self._norms:
            norm = number(torch.stack([torch.as_tensor(n) for n in self._norms]).square().sum().sqrt())
        for each in self.tracked:
            last: Any = getattr(each.optimizer, "last", None) if each.ours else None
            if last is not None:
                norm, clip = last.grad_norm, last.clip_factor
        return lr, norm, clip

    def _odd(self, one: Passed) -> None:
        """The loss of a pass is out of the ordinary."""
        self._note_data(one)
        self._until = self.step  # from now on closely

    @torch.no_grad()
    def _note_data(self, one: Passed) -> None:
        if one.noted:
            return
        one.noted = True
        facts, batches = self.signals.facts, self.signals.batches
        if ("epoch" not in facts or not batches.full) and batches.remember(one.inputs):
            facts.setdefault("epoch", self.step)
        batches.train.add_inputs(one.inputs)
        batches.train.add_targets(one.targets)

    def _sort_out(self) -> None:
        """Passes that backward has not reached lead to no step."""
        for one in (*self._light.pending(), *self._passes.left()):
            self._evaluated(one)

    def validated(self, loss: float, metric: float, higher_is_better: bool) -> None:
        """The user says what a validation gave."""
        self._read_light()
        self._sort_out()
        self._validations.end(self.step, loss, metric, higher_is_better)

    def settle(self) -> None:
        """Bring everything up to date: validations that no step has followed, numbers not yet read."""
        self._sort_out()
        self._validations.end(self.step)
        self.read()

    def read(self) -> None:
        """Read the numbers that are not read yet."""
        self._read_light()
        self._unread.read()

    def arrays(self) -> dict[str, Floats]:
        """What was measured, as far as it is arrays."""
        self.read()
        return {**self.signals.arrays(), **self.glance.arrays()}

    def rest(self) -> dict[str, Any]:
        """All the rest."""
        light = self._light
        return {
            "step": self.step,
            "light": (light.on, light.usual, light.keep, self._until),
            "steps": [(each.steps, each.own) for each in self.tracked],
            "signals": self.signals.rest(),
        }

    def load(self, arrays: Mapping[str, Floats], rest: Mapping[str, Any]) -> None:
        """Take up what `arrays` and `rest` gave."""
        self.step = rest["step"]
        self._light.on, self._light.usual, self._light.keep, self._until = rest["light"]
        self._light.left = 0
        for each, (steps, own) in zip(self.tracked, rest["steps"], strict=True):
            each.steps, each.own = steps, own
        self.signals.load(arrays, rest["signals"])
        self.glance.load(arrays)
        self.glance.prepare(self.step)
        if self._light.on:
            for each in self.tracked:
                each.detach()


def _rate(groups: Sequence[Mapping[str, Any]]) -> float:
    """The largest learning rate."""
    return float(groups[0]["lr"]) if len(groups) == 1 else max(float(group["lr"]) for group in groups)
