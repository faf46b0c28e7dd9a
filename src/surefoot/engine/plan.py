"""The launch plan: which parameters the compiled kernels take together, and which take the reference backend.

A plan is made once and used as long as it fits. It no longer does when a parameter was added, replaced, moved or given
its first gradient, a state was replaced or moved, a gradient has another layout, or an option has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.engine import cpu, states
from surefoot.engine.lane import PLAIN, PRECISIONS, Lane, alike, fits
from surefoot.engine.options import Options
from surefoot.engine.update import Item, Update
from surefoot.engine.witness import Witness, witness
from surefoot.rules.rule import Rule

State = MutableMapping[Tensor, dict[str, Any]]


class Plan:
    """How the parameters of an optimizer run.

    lanes: those that compiled kernels take
    items: those that take the reference backend
    names: what reports call them, first the lanes', then the items'
    """

    def __init__(self, updates: Sequence[Update], state: State, options: Options, last: Plan | None = None) -> None:
        """Plan a step. Parameters without a gradient get a place if they have a state, or had one
        in the last plan and keep none."""
        self._params = list(_params(updates))
        strangers = [p for p in self._params if p not in state]
        self._terms = _terms(updates, options)
        self._idle: list[Tensor] = []
        self.items: list[Item] = []
        known = {id(item.p) for item in last.planned} if last else set[int]()
        members: dict[tuple[Rule, str], list[Item]] = {}
        for group, update in enumerate(updates):
            keeps = bool(update.rule.states) or update.rule.counted or options.ema is not None
            for place, p in enumerate(update.params):
                ready = (
                    states.complete(update.rule, state.get(p, {}), options.ema is not None) if keeps else id(p) in known
                )
                if p.grad is None and not ready:
                    self._idle.append(p)
                    continue
                item = Item(p, group, place, state[p] if keeps else {}, [], update.factors(place))
                if update.numeric and fits(p) and (p.grad is None or alike(p.grad, p)):
                    members.setdefault((update.rule, PRECISIONS[p.dtype]), []).append(item)
                else:
                    self.items.append(item)
        self.lanes: list[Lane] = []
        for (rule, precision), items in members.items():
            taken: list[Item] = []
            if cpu.available(rule, precision, options):
                for item in items:
                    hyper = updates[item.group].hyper
                    item.created.extend(states.start(rule, hyper, item.p, item.kept, options.ema is not None))
                names = states.names(rule, options.ema is not None)
                fit = [item for item in items if _own_count(item) and all(alike(item.kept[n], item.p) for n in names)]
                chosen = {id(item.p) for item in fit}
                taken = _apart(fit, names, [p for p in self._params if id(p) not in chosen])
            if taken:
                self.lanes.append(Lane(rule, precision, taken, options.ema is not None))
            lane_places = {(item.group, item.place) for item in taken}
            self.items.extend(item for item in items if (item.group, item.place) not in lane_places)
        self.items.sort(key=lambda item: (item.group, item.place))
        self._new = [p for p in strangers if p in state]
        self._state, self._keys, self._values = state, list(state), list(state.values())
        self._groups = [update.params for update in updates]
        self._witness: Witness | None = None
        self._wait, self._patience = 0, 1  # steps until the next witness is called, and for how long after that
        self.names = [_name(updates, item) for item in chain(*(lane.items for lane in self.lanes), self.items)]

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

    def gradients_overlap(self) -> bool:
        """Whether gradients in the lanes share memory."""
        starts = np.concatenate([lane.pointers[1] for lane in self.lanes]) if self.lanes else np.zeros(0, np.int64)
        sizes = [lane.sizes * (8 if lane.precision == "float64" else 4) for lane in self.lanes]
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


def _params(updates: Sequence[Update]) -> Iterator[Tensor]:
    return chain.from_iterable(update.params for update in updates)


def _terms(updates: Sequence[Update], options: Options) -> list[Any]:
    """What must stay as it is, besides the tensors."""
    return [options, *(_term(u) for u in updates)]


def _term(u: Update) -> tuple[Any, ...]:
    return u.rule, u.numeric, len(u.params), tuple(u.lr_factors), tuple(u.decay_factors)


def _name(updates: Sequence[Update], item: Item) -> str:
    names = updates[item.group].names
    return names[item.place] if names else f"group {item.group}, parameter {item.place}"


def _own_count(item: Item) -> bool:
    """Whether the step count is this process's alone: a lane keeps its own, and others would see it no more."""
    return "step" not in item.kept or not item.kept["step"].is_shared()


def _apart(items: list[Item], names: Sequence[str], others: Sequence[Tensor]) -> list[Item]:
    """Those that share no memory with another parameter: threads would race for it."""
    tensors = [(i, t) for i, item in enumerate(items) for t in (item.p, *(item.kept[name] for name in names))]
    tensors += [(-1, p) for p in others if type(p) in PLAIN and p.layout == torch.strided and p.device.type == "cpu"]
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
