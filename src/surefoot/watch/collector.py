"""The hooks of a watch, and what is measured when they are called."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surefoot.watch.batches import Data
from surefoot.watch.due import Due
from surefoot.watch.glance import Glance
from surefoot.watch.passed import NAN, Passed, numbers
from surefoot.watch.picks import Floats
from surefoot.watch.signals import Signals, Step, Validation
from surefoot.watch.tracked import Tracked
from surefoot.watch.wiring import compiled, moody, named

DENSE = 32  # steps whose data are all looked at
BROKEN = 4  # steps without a finite loss whose data are looked at in any case
WAITING = 64  # losses that backward has not reached
UNREAD = 16  # steps whose numbers are read together
LOOKED_AT = 4  # passes of a validation
CLOSELY = 64  # steps after which only every so many (`EACH`) is watched closely, and of the others only the loss
EACH = 16


class Collector:
    """Attaches hooks to a model, its optimizers and its loss, and fills `signals`.

    Draws no random number, changes nothing, and holds no graph longer than a step.

    Args:
        look_at: is shown a pass between forward and backward, at the steps that are looked at; and once more when
            backward reaches its outputs, with the gradient there
        stepped: is told of each step
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
        self.moody = moody(model)
        self._named = named(model)
        self.glance = Glance(model, self._named, self.signals, inner=not compiled(model))
        self.validating = False  # within `with watch.validation()`
        self._look_at, self._stepped, self._guard = look_at, stepped, guard
        self._data_due = Due(every=64, growth=1.15)
        self._norm_due = max(1, sum(len(t.params) for t in self.tracked) // 8 // EACH * EACH)
        self._light, self._usual, self._until = False, 0, 0  # whether only the loss is watched; passes of a step
        self._open: list[Passed] = []
        self._peeked: list[tuple[Any, bool]] = []  # passes without gradients whose loss is not known
        self._unread: list[tuple[int, list[Passed], float, Tensor | float, int, float]] = []
        self._fresh, self._backwards, self._scaled, self._looking = True, 0, False, False
        self._within = False  # a step that calls a closure for its gradients
        self._inputs: Any = None
        self._entered: float | None = None
        self._ended: float | None = None
        self._waits, self._paces = 0.0, 0.0
        self._norms: list[Tensor | float] = []
        self._val: list[Any] = [0.0, 0, 0]  # sum of losses, how many are known, passes
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Set all hooks."""
        guard = self._guard

        def compared(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
            guard(self._compared, module, args, kwargs, loss)

        self._handles.append(self.model.register_forward_pre_hook(self._enters, with_kwargs=True))
        if self.criterion is not None:
            self._handles.append(self.criterion.register_forward_hook(compared, with_kwargs=True))
        for each in self.tracked:
            each.attach(self._reached)
            self._handles.append(each.optimizer.register_step_pre_hook(self._before_step(each)))
            self._handles.append(each.optimizer.register_step_post_hook(self._after_step(each)))
        self.glance.begin()

    def detach(self) -> None:
        """Remove all hooks, and read what is unread."""
        self.remove()
        self.settle()
        self._open, self._inputs = [], None

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for each in self.tracked:
            each.detach()
        self.glance.drop()

    # -- what hooks call -------------------------------------------------------------------------------------------

    def _enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inputs = (args, kwargs) if kwargs else args[0] if len(args) == 1 else args
        if not torch.is_grad_enabled():
            self._peeked = [*self._peeked[1 - LOOKED_AT :], (self._inputs, self.model.training)]
        elif self._entered is None:
            self._entered = time.perf_counter()

    def _compared(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        outputs = args[0] if args else kwargs.get("input")
        targets = args[1] if len(args) > 1 else kwargs.get("target")
        self.passed(loss, outputs, targets, criterion=module)

    def passed(
        self, loss: Any, outputs: Any, targets: Any, inputs: Any = None, indices: Any = None, criterion: Any = None
    ) -> None:
        """A loss has been worked out, by the criterion or as the user says."""
        if self._looking:
            return  # a check asks the criterion
        inputs = self._inputs if inputs is None else inputs
        one = Passed(loss, outputs, targets, inputs, indices, self.model.training, criterion)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            if torch.is_grad_enabled() and self.model.training and not self.validating:
                self.signals.counts.add("flat_losses", self.step)
            self._evaluated(one)
            return
        if self.validating:
            one.loss = loss.detach()
            self._evaluated(one)
            return
        last = self._open[-1] if self._open else None
        if criterion is None and last is not None and not last.fired and last.criterion is not None:
            self._open.pop()  # the user says more of the same pass
            last.fired = True
            one.criterion = last.criterion
        if not self._light:
            self._follow(one)
        self._open.append(one)
        one.loss = loss.detach()
        one.outputs = outputs.detach() if isinstance(outputs, Tensor) else None
        if len(self._open) > (self._usual if self._light else WAITING) and not self._open[0].fired:
            self._evaluated(self._open.pop(0))

    def _follow(self, one: Passed) -> None:
        """See whether backward reaches a pass, and with what."""
        if self._open and self._open[-1].fired:
            self._fresh = True
        one.loss.register_hook(self._fires(one))
        if self.glance.on:
            self._show(one, None)
            if isinstance(one.outputs, Tensor) and one.outputs.requires_grad:
                one.outputs.register_hook(self._slopes(one))

    def _slopes(self, one: Passed) -> Callable[[Tensor], None]:
        return lambda slope: self._guard(self._show, one, slope)

    def _show(self, one: Passed, slope: Tensor | None) -> None:
        self._looking = True
        try:
            self._look_at(one, slope)
        finally:
            self._looking = False

    def _fires(self, one: Passed) -> Callable[[Tensor], None]:
        def fires(gradient: Tensor) -> None:
            if one.fired:
                return
            one.fired, one.weight = True, gradient.detach()
            if self._fresh:
                self._fresh = False
                self._guard(self._backward_begins, one)

        return fires

    def _reached(self) -> None:
        self._fresh = True

    def _backward_begins(self, one: Passed) -> None:
        counts = self.signals.counts
        counts.backwards += 1
        self._backwards += 1
        if self.moody and not one.training:
            counts.add("in_eval_mode", self.step)
        if one.weight is not None and not one.weight.is_cuda:
            self._scaled = one.weight.numel() == 1 and abs(float(one.weight)) > 1.5
        if self._within and self._backwards > 1:
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
            if not self._light:
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
        if self.step % self._norm_due == 0 and not each.ours:
            norm = each.grad_norm()
            if norm is not None:
                self._norms.append(norm)

    def _note_missing(self, each: Tracked) -> None:
        """Take note of parameters that no look has seen a gradient of."""
        facts = self.signals.facts
        held = {id(p) for p in each.params}
        missing = {name for name, p in self._named if p.grad is None and id(p) in held}
        key = f"without {self.tracked.index(each)}"
        facts[key] = sorted(missing if key not in facts else missing & set(facts[key]))

    def _after_step(self, each: Tracked) -> Callable[..., None]:
        def after() -> None:
            if self._within:  # a closure has worked out the gradients
                self._complete(each)
            each.stepped()
            if self._light or each is self.tracked[-1] or not self._backwards_left():
                self._end_step()
            self._within = False

        def guarded(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._guard(after)

        return guarded

    def _backwards_left(self) -> bool:
        """Whether another optimizer is still to step with the gradients that have come."""
        return any(other.accumulated for other in self.tracked)

    # -- what follows ------------------------------------------------------------------------------------------------

    def _end_step(self) -> None:
        if self._light and self.step + 1 < self._until and not self._peeked and not self._val[2]:
            self.step += 1
            for one in self._open:
                one.slim()
            self._unread.append((self.step, self._open, self._rate(), NAN, len(self._open), NAN))
            self._open, self._entered, self._ended = [], None, time.perf_counter()
            return
        now = time.perf_counter()
        if not self._light:
            self._sort_out()
        fired = self._open
        validated = self._val[2] > 0 or bool(self._peeked)
        if self._peeked:
            self._note_peeked(told=False)
        self._end_validation()
        if self._ended is not None and self._entered is not None and not validated:
            self._waits += self._entered - self._ended
            self._paces += now - self._ended
        self.step += 1
        lr, norm, clip = self._rates()
        self._unread.append((self.step, fired, lr, norm, len(fired) if self._light else self._backwards, clip))
        if not self._light:
            self.signals.counts.closely += 1
            regular = len(fired) == self._backwards and not (self._within and len(fired) > 1)
            self._usual = len(fired) if regular else 0
        if fired:
            if self.step <= DENSE or self._data_due(self.step - 1):
                self._note_data(self.signals.batches.train, fired[-1])
            for one in fired:
                one.slim()
        if self.glance.wanted:
            self.glance.after(self.step, clip)
            if self._paces:
                self.signals.waits.append(self._waits / self._paces)
                self._waits = self._paces = 0.0
        self._open, self._backwards, self._fresh, self._norms = [], 0, True, []
        if len(self._unread) >= UNREAD:
            self.read()
        self._stepped(self.step)
        self.glance.prepare(self.step)
        self._choose()
        self._entered, self._ended = None, time.perf_counter()

    def _choose(self) -> None:
        """Whether the next step is watched closely, or only its loss. That takes one optimizer, and passes that are all
        known to lead to a step."""
        light = len(self.tracked) == 1 and self._usual > 0 and not self._scaled and not self.glance.wanted
        self._until = self.step
        while light and self._idle(self._until):
            self._until += 1
        light = self._until > self.step
        if light != self._light:
            self._light = light
            for each in self.tracked:
                each.detach() if light else each.attach(self._reached)

    def _idle(self, step: int) -> bool:
        """Whether nothing but the loss is due at a step."""
        return step >= CLOSELY and step % EACH > 0 and not (self.glance.due(step) or self._data_due(step))

    def _rate(self) -> float:
        """The learning rate; the largest, if there are many."""
        return max(float(group["lr"]) for t in self.tracked for group in t.optimizer.param_groups)

    def _rates(self) -> tuple[float, Tensor | float, float]:
        """The largest learning rate, the gradient's norm and the clip factor of this step, NaN where not known."""
        norm: Tensor | float = NAN
        clip = NAN
        if self._norms:
            norm = torch.stack([torch.as_tensor(n) for n in self._norms]).square().sum().sqrt()
        for each in self.tracked if not self._light and (self.step - 1) % self._norm_due == 0 else ():
            last: Any = getattr(each.optimizer, "last", None) if each.ours else None
            if last is not None:
                norm, clip = last.grad_norm, last.clip_factor
        return self._rate(), norm, clip

    def _note_data(self, data: Data, one: Passed) -> None:
        with torch.no_grad():
            facts, batches = self.signals.facts, self.signals.batches
            unknown = "epoch" not in facts or not batches.full
            if data is batches.train and unknown and batches.remember(one.inputs):
                facts.setdefault("epoch", self.step)
            data.add_inputs(one.inputs)
            data.add_targets(one.targets)

    def _sort_out(self) -> None:
        """Keep of the open passes those that backward has reached."""
        for one in self._open:
            if not one.fired:
                self._evaluated(one)
        self._open = [one for one in self._open if one.fired]

    def _evaluated(self, one: Passed) -> None:
        """A pass that does not lead to a step: a validation, or a loss that somebody wanted to know."""
        total = self._val
        self._peeked = [peeked for peeked in self._peeked if peeked[0] is not one.inputs]
        if total[2] < LOOKED_AT:
            if not self.validating and self.signals.batches.known(one.inputs) > 0.5:
                return
            self._note_data(self.signals.batches.val, one)
            if self.moody and one.training:
                self.signals.counts.add("validated_in_train_mode", self.step)
        total[2] += 1
        if isinstance(one.loss, Tensor) and one.loss.numel():
            total[0] += float(one.loss.detach().float().mean())
            total[1] += 1

    def _note_peeked(self, told: bool) -> None:
        """Passes without gradients and without a loss: validation if the model is in that mode, or the user says so."""
        peeked, self._peeked = self._peeked, []
        for place, (inputs, training) in enumerate(peeked, 1):
            last = place == len(peeked)  # those before may have measured batch norm's statistics anew
            if (training and not (told and last)) or (not told and self.signals.batches.known(inputs) > 0.5):
                continue
            with torch.no_grad():
                self.signals.batches.val.add_inputs(inputs)
            if self.moody and training:
                self.signals.counts.add("validated_in_train_mode", self.step)

    def _end_validation(self, loss: float = NAN, metric: float = NAN, higher: bool = True) -> None:
        total, known, passes = self._val
        self._val = [0.0, 0, 0]
        if not passes and loss != loss and metric != metric:
            return
        loss = total / known if loss != loss and known else loss
        self.signals.counts.validations += 1
        self.signals.validations.append(Validation(self.step, loss, metric, higher, passes))

    def validated(self, loss: float, metric: float, higher_is_better: bool) -> None:
        """The user says what a validation gave."""
        self._sort_out()
        self._note_peeked(told=True)
        self._end_validation(loss, metric, higher_is_better)

    def read(self) -> None:
        """Read the numbers of the last steps, which may be on a device."""
        unread, self._unread = self._unread, []
        every: list[Any] = []
        for _, passed, _, norm, _, _ in unread:
            every += [x for one in passed for x in (one.loss, one.weight)] + [norm]
        values = iter(numbers(every))
        for step, passed, lr, _, backwards, clip in unread:
            losses = [(next(values), next(values)) for _ in passed]
            norm = next(values)
            loss = sum(value for value, _ in losses) / len(losses) if losses else NAN
            self.signals.steps.append(Step(step, loss, lr, norm, losses[-1][1] if losses else NAN, backwards, clip))
            if losses and not abs(loss) < float("inf"):
                self.signals.counts.add("broken_losses", step)
                if self.signals.counts.broken_losses <= BROKEN:
                    self._note_data(self.signals.batches.train, passed[-1])

    def settle(self) -> None:
        """Bring everything up to date: validations that no step has followed, numbers not yet read."""
        self._sort_out()
        self._end_validation()
        self.read()

    def arrays(self) -> dict[str, Floats]:
        """What was measured, as far as it is arrays."""
        self.read()
        return {**self.signals.arrays(), **self.glance.arrays()}

    def rest(self) -> dict[str, Any]:
        """All the rest."""
        light = (self._light, self._usual, self._until)
        return {
            "step": self.step,
            "light": light,
            "steps": [each.steps for each in self.tracked],
            "signals": self.signals.rest(),
        }

    def load(self, arrays: Mapping[str, Floats], rest: Mapping[str, Any]) -> None:
        """Take up what `arrays` and `rest` gave."""
        self.step = rest["step"]
        self._light, self._usual, self._until = rest["light"]
        for each, steps in zip(self.tracked, rest["steps"], strict=True):
            each.steps = steps
        self.signals.load(arrays, rest["signals"])
        self.glance.load(arrays)
        self.glance.prepare(self.step)
        if self._light:
            for each in self.tracked:
                each.detach()
