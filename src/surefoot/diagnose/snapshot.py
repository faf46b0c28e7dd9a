"""Trying things out on somebody's model in place, and leaving no trace: what is put back, to the bit."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._autograd import _unsafe_set_version_counter  # pyright: ignore

from surefoot.engine.engine import Engine
from surefoot.errors import UserError
from surefoot.optim import Optimizer as Ours
from surefoot.optim.optimizer import HOOKS

HOLDERS = (dict, OrderedDict, defaultdict, list, set, deque)  # what a module may keep its own things in
SHARED = ("DistributedDataParallel", "FullyShardedDataParallel", "DTensor", "FSDPModule", "DeepSpeedEngine")


class Snapshot:
    """What modules and parameters are now, to go back to as often as one likes.

    Of each module: its parameters, buffers, mode, hooks, and its own attributes as far as they are tensors, generators
    of random numbers, or dicts, lists and sets. Objects stay who they are: values are written back into them.
    """

    def __init__(self, roots: Iterable[nn.Module], params: Iterable[Tensor]) -> None:
        found = {id(m): m for root in roots for m in modules(root)}
        self.own = [(vars(m), dict(vars(m))) for m in found.values()]
        held = [v for _, was in self.own for v in was.values()]
        self.contents = [(v, copy.copy(v)) for v in held if type(v) in HOLDERS]
        inner = [v for holder, _ in self.contents if isinstance(holder, dict) for v in cast("Any", holder).values()]
        every: list[Any] = [*params, *held, *inner]
        self.tensors = list({id(t): t for t in every if isinstance(t, Tensor)}.values())
        self.values = [t.detach().clone() for t in self.tensors]
        self.generators = [(g, g.get_state()) for g in held if isinstance(g, torch.Generator)]

    @torch.no_grad()
    def rewind(self) -> None:
        """Go back to it."""
        for now, was in self.own:
            for name in [name for name in now if name not in was]:
                del now[name]
            now.update(was)
        for holder, was in self.contents:
            holder.clear()
            (holder.extend if isinstance(holder, list | deque) else holder.update)(was)
        for t, value in zip(self.tensors, self.values, strict=True):
            t.detach().copy_(value)
        for generator, state in self.generators:
            generator.set_state(state)


@contextmanager
def unchanged(roots: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> Generator[Snapshot]:
    """Whatever is done to models and parameters in this context is undone at its end: values, buffers, modes, hooks,
    gradients (the same objects), `requires_grad`, all random numbers, even the version counters by which autograd sees
    that something has changed, so that it may lie between a forward pass and its backward pass.

    Within it parameters have no gradient, and no hook of the user's is called when they get one: such hooks step.
    """
    params = list({id(p): p for p in (*parameters(optimizers), *(p for r in roots for p in r.parameters()))}.values())
    snapshot = Snapshot(roots, params)
    grads = [(p, p.grad, p.requires_grad) for p in params]
    stepping = [(hooks, dict(hooks)) for hooks in (_hooks(p) for p in params) if hooks]
    versions = tuple(t._version for t in snapshot.tensors)
    randoms = random_numbers()
    try:
        for p in params:
            p.grad = None
        for hooks, _ in stepping:
            hooks.clear()
        with torch.inference_mode(False), torch.enable_grad():
            yield snapshot
    finally:
        snapshot.rewind()
        for hooks, were in stepping:
            hooks.clear()
            hooks.update(were)
        for p, grad, wanted in grads:
            p.requires_grad_(wanted)
            p.grad = grad
        _unsafe_set_version_counter(tuple(snapshot.tensors), versions)
        randoms()


def random_numbers() -> Callable[[], None]:
    """A function that goes back to where all random numbers stand now: Python's, NumPy's, torch's on all devices."""
    python, numbers, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def back() -> None:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(own)
        torch.cuda.set_rng_state_all(devices) if devices else None

    return back


def seeded(seed: int) -> None:
    """Seed all random numbers, and wake no device up."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def parameters(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """All parameters of some optimizers."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def anew(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer as this one was before its first step: of the same kind, groups and parameters, without hooks."""
    ours, empty = isinstance(optimizer, Ours), cast("dict[Any, Any]", defaultdict(dict))
    made: Any = object.__new__(type(optimizer))
    memo: dict[int, Any] = {id(p): p for p in parameters([optimizer])} | {
        id(optimizer): made,
        id(optimizer.state): empty,
    }
    left_out = {
        "step",
        *HOOKS,
        *(("_engine", "last", "_in_backward") if ours else ()),
    }  # torch's schedules set a `step`
    for name, value in vars(optimizer).items():
        if name not in left_out:
            vars(made)[name] = copy.deepcopy(value, memo)
    vars(made).update({name: OrderedDict() for name in HOOKS})
    if ours:
        made._engine, made.last = Engine(), None
    if type(optimizer).__name__ == "Adagrad":  # which has its sums from the start
        for p, kept in optimizer.state.items():
            made.state[p] = {name: copy.deepcopy(value, memo) for name, value in kept.items()}
            made.state[p]["step"] = torch.zeros_like(kept["step"])
            made.state[p]["sum"].fill_(optimizer.defaults["initial_accumulator_value"])
    return made


def refuse_shared(model: nn.Module, params: Iterable[Tensor]) -> None:
    """Refuse a model that several processes train: what one of them tries out, all would have to."""
    kinds = {kind.__name__ for thing in (*modules(model), *params) for kind in type(thing).__mro__}
    shared = next((name for name in SHARED if name in kinds), None)
    if shared is not None:
        raise UserError(
            f"probe: the model is trained by several processes ({shared}), which cannot be put back exactly: "
            "probe it in a single process"
        )


def modules(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, itself the first."""
    return list(cast("Iterable[nn.Module]", model.modules()))


def _hooks(p: Tensor) -> Any:
    return getattr(p, "_post_accumulate_grad_hooks", None)


def resettable(model: nn.Module) -> bool:
    """Whether all trainable weights can be drawn anew as torch's own modules draw them."""
    own = [m for m in modules(model) if any(p.requires_grad for p in m.parameters(recurse=False))]
    return all(callable(_resetting(m)) for m in own)


def reset(model: nn.Module) -> None:
    """Draw all trainable weights anew."""
    for m in modules(model):
        if any(p.requires_grad for p in m.parameters(recurse=False)):
            _resetting(m)()


def _resetting(m: nn.Module) -> Any:
    return getattr(m, "reset_parameters", None) or getattr(m, "_reset_parameters", None)
