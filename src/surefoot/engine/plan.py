"""The launch plan: which parameters the compiled kernels take together, and which take the reference backend.

A plan is made once and used as long as it fits. It no longer does when a parameter was added, replaced, moved or given
its first gradient, a state was replaced or moved, a gradient has another layout, or an option has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from itertools import chain, count
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.engine import gpu, states
from surefoot.engine.cpu import CpuLane
from surefoot.engine.lane import PLAIN, STORED, Form, Lane, alike, beside, fits
from surefoot.engine.options import Options
from surefoot.engine.shards import lay_out, local, split
from surefoot.engine.update import Item, Update
from surefoot.engine.witness import Witness, witness

State = MutableMapping[Tensor, dict[str, Any]]


class Plan:
    """How the parameters of an optimizer run.

    lanes: those that compiled kernels take
    items: those that take the reference backend
    names: what reports call them, first the lanes', then the items'
    given, common: whether there are rules that are given something, or that share hyper-parameters
    """

    def __init__(self, updates: Sequence[Update], state: State, options: Options, last: Plan | None = None) -> None:
        """Plan a step. Parameters without a gradient get a place if they have a state, or had one
        in the last plan and keep none."""
        self._params = list(_params(updates))
        strangers = [p for p in self._params if p not in state]
        self._terms = _terms(updates, options)
        self.given = any(update.rule.given for update in updates)
        self.common = any(update.rule.common for update in updates)
        self._idle: list[Tensor] = []
        self.items: list[Item] = []
        known = {id(item.p) for item in last.planned} if last else set[int]()
        members: dict[Form, list[Item]] = {}
        numbers = count(updates[0].first if updates else 0)
        for group, update in enumerate(updates):
            for place, p in enumerate(update.params):
                number, names = next(numbers), states.names(update.rule, p, options)
                keeps = bool(names) or states.counted(update.rule, p, options)
                ready = states.complete(update.rule, p, state.get(p, {}), options) if keeps else id(p) in known
                if p.grad is None and not ready:
                    self._idle.append(p)
                    continue
                item = Item(p, group, place, number, state[p] if keeps else {}, [], update.factors(place))
                form = self._form(item, update, options)
                if form is None:
                    self.items.append(item)
                else:
                    members.setdefault(form, []).append(item)
        self.lanes: list[Lane] = []
        for form, items in members.items():
            chosen = {id(item.p) for item in items}
            taken = _apart(items, form.names, [p for p in self._params if id(p) not in chosen])
            kind = _kind(form.device)
            if taken and kind is not None:
                self.lanes.append(kind(form, taken))
            numbers_taken = {item.number for item in taken}
            self.items.extend(item for item in items if item.number not in numbers_taken)
        self.items.sort(key=lambda item: item.number)
        self._new = [p for p in strangers if p in state]
        self._state, self._keys, self._values = state, list(state), list(state.values())
        self._groups = [update.params for update in updates]
        self._witness: Witness | None = None
        self._wait, self._patience = 0, 1  # steps until the next witness is called, and for how long after that
        self.names = [updates[item.group].name(item.group, item.place) for item in self.planned]

    def _form(self, item: Item, update: Update, options: Options) -> Form | None:
        """The form of the lane that can take a parameter, whose states are there then; None: no lane can."""
        p, rule, kept = item.p, update.rule, item.kept
        kind = _kind(p.device)
        lay_out(p.grad, p)
        if kind is None or not (kind.takes(update) and fits(p) and (p.grad is None or alike(p.grad, p))):
            return None
        item.created.extend(states.start(rule, update.hyper, p, kept, options))
        names = states.names(rule, p, options)
        # a lane keeps a count of its own, and other processes would see a shared one no more
        shared = "step" in kept and kept["step"].device.type == "cpu" and kept["step"].is_shared()
        if shared or not all(beside(kept[name], p) for name in names):
            return None
        stored = tuple(STORED[t.dtype] for t in (p, *(kept[name] for name in names)))
        form = Form(
            p.device, rule, names, stored, states.counted(rule, p, options), split(p), states.scales(rule, kept)
        )
        return form if kind.available(form, options) else None

    def fits(self, updates: Sequence[Update], state: State, options: Options) -> bool:
        """Whether the plan holds for this step; makes it ready for it if it does."""
        return (
            _terms(updates, options) == self._terms
            and (self._witnessed(updates, state) or self._same(updates, state))
            and all(p.grad is None for p in self._idle)
            and all(lane.refresh() for lane in self.lanes)
        )

    def _witnessed(self, updates: Sequence[Update], state: State) -> bool:
        """Whether a witness can tell that parameters, states and their tensors are the same."""
        if self._witness is None or state is not self._state:
            return False
        return all(map(is_, (u.params for u in updates), self._groups)) and self._witness.holds()

    def _same(self, updates: Sequence[Update], state: State) -> bool:
        """The same by asking them all; calls a witness for the steps to come if they are.

        Something may change at every step that does not matter here, such as a count of the user's own in a state; then
        witnesses are called more and more rarely.
        """
        same = (
            len(state) == len(self._keys)
            # the same objects: tensors cannot be asked whether they are equal
            and all(map(is_, _params(updates), self._params))
            and all(map(is_, state, self._keys))
            and all(map(is_, state.values(), self._values))
            and all(lane.same() for lane in self.lanes)
        )
        self._witness, self._wait = None, self._wait - 1
        if same and self._wait < 0:
            self._wait, self._patience = self._patience, 2 * self._patience
            self._state, self._groups = state, [update.params for update in updates]
            tensors = [t for lane in self.lanes for t in lane.tensors()]
            self._witness = witness(tensors, [state, *state.values()], self._groups)
        return same

    def late(self, options: Options) -> bool:
        """Whether a step can be decided where the parameters are: the host need not know what becomes of it."""
        clip = options.clip_norm
        asked = clip is not None and (callable(clip.max_norm) or clip.error_if_nonfinite)
        asked = asked or self.given  # torch multiplies by numbers of the host's
        alone = all(lane.late for lane in self.lanes) and all(item.p.grad is None for item in self.items)
        return bool(self.lanes) and alone and not asked

    def gradients_overlap(self) -> bool:
        """Whether gradients in the lanes share memory."""
        starts = np.concatenate([lane.pointers[1] for lane in self.lanes]) if self.lanes else np.zeros(0, np.int64)
        sizes = [lane.sizes * lane.params[0].element_size() for lane in self.lanes]
        order = starts.argsort()
        ends = (starts + np.concatenate([*sizes, np.zeros(0, np.int64)]))[order]
        starts = starts[order]
        return bool((starts[1:] < ends[:-1])[starts[:-1] > 1].any())

    def undo(self, state: State) -> None:
        """Take back the states that were made for a step that is not taken."""
        for item in self.planned:
            for name in item.created:
                del item.kept[name]
            item.created.clear()
        for p in self._new:
            if not state[p]:
                del state[p]

    def keep(self) -> None:
        """The step was taken, and the states that were made for it are there to stay."""
        self._new.clear()
        for item in self.planned:
            item.created.clear()

    @property
    def planned(self) -> Iterator[Item]:
        """All parameters that have a place."""
        return chain(*(lane.items for lane in self.lanes), self.items)


def _kind(device: torch.device) -> type[Lane] | None:
    """What runs parameters on a device."""
    if device.type in gpu.DEVICES:
        return gpu.GpuLane
    return CpuLane if device.type == "cpu" else None


def _params(updates: Sequence[Update]) -> Iterator[Tensor]:
    return chain.from_iterable(update.params for update in updates)


def _terms(updates: Sequence[Update], options: Options) -> list[Any]:
    """What must stay as it is, besides the tensors."""
    return [options, *(_term(u) for u in updates)]


def _term(u: Update) -> tuple[Any, ...]:
    return u.rule, u.numeric, len(u.params), u.first, tuple(u.lr_factors), tuple(u.decay_factors)


def _apart(items: list[Item], names: Sequence[str], others: Sequence[Tensor]) -> list[Item]:
    """Those that share no memory with another parameter: threads would race for it."""
    tensors = [(i, local(t)) for i, item in enumerate(items) for t in (item.p, *(item.kept[name] for name in names))]
    tensors += [(-1, p) for p in map(local, others) if type(p) in PLAIN and p.layout == torch.strided]
    shared: set[int] = set()
    furthest, owner = 0, -1
    for start, end, i in sorted((*_span(t), i) for i, t in tensors):
        if start < furthest:
            shared |= {i, owner}
        if end > furthest:
            furthest, owner = end, i
    return [item for i, item in enumerate(items) if i not in shared]


def _span(t: Tensor) -> tuple[int, int]:
    """From where to where a tensor lies in memory."""
    reach = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) + 1 if t.numel() else 0
    return t.data_ptr(), t.data_ptr() + reach * t.element_size()
