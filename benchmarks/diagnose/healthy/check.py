"""Is a program sound? It must learn, and no simple remedy may gain much: else a warning on it would be right.

The remedies come through `watch` itself: it is given the optimizer before the first step, and may change its rate.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.diagnose.healthy.registry import Healthy

DONE = 0.02  # of the fall from the base rate: a loss as low as this share of it has nothing more to gain


class NullWatch:
    """Stands in for `sf.watch`: sees nothing, finds nothing; keeps what it is told of validation."""

    def __init__(self, model: Any, optimizer: Any, loss: Any = None, **options: Any) -> None:
        self.findings: list[Any] = []
        self.validations: list[float] = []

    def observe(self, **_: Any) -> None: ...

    def validated(self, loss: float | None = None, **_: Any) -> None:
        if loss is not None:
            self.validations.append(float(loss))

    def validation(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None: ...

    def __enter__(self) -> NullWatch:
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Remedy:
    """A change of the optimizer before the first step."""

    name: str
    lr: float = 1.0
    momentum: float | None = None
    adam: float | None = None  # the rate of the Adam that takes the place of SGD

    def __call__(self, model: Any, optimizer: Any, **options: Any) -> NullWatch:
        for one in optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]:
            for group in one.param_groups:
                if "initial_lr" in group:
                    raise ValueError("the program makes its schedule before it calls watch: the remedy has no effect")
                group["lr"] *= self.lr
                if self.momentum is not None:
                    group["momentum"] = self.momentum
            if self.adam is not None:
                _become_adam(one, self.adam)
        return NullWatch(model, optimizer, **options)

    def fits(self, sgd: bool, plain: bool) -> bool:
        return (self.momentum is None or plain) and (self.adam is None or sgd)


RATES = tuple(Remedy(f"lr x{lr:.3g}", lr=lr) for lr in (0.1, 1 / 3, 3.0, 10.0))
OTHERS = (
    Remedy("momentum", momentum=0.9),
    Remedy("momentum, lr /3", momentum=0.9, lr=1 / 3),
    *(Remedy(f"adam {lr:g}", adam=lr) for lr in (1e-3, 3e-3, 1e-2)),
)


def _become_adam(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """SGD that has taken no step turns into Adam in place, since the program holds this very object."""
    largest = max(group["lr"] for group in optimizer.param_groups)
    other = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr)
    optimizer.__class__ = torch.optim.Adam
    optimizer.defaults = other.defaults
    for group in optimizer.param_groups:
        kept = {"params": group["params"], "lr": lr * group["lr"] / largest, "weight_decay": group["weight_decay"]}
        group.clear()
        group.update({**other.defaults, **kept})


class _Look:
    """Learns what optimizers a program has."""

    def __init__(self) -> None:
        self.sgd = self.plain = False
        self.watches: list[NullWatch] = []

    def __call__(self, model: Any, optimizer: Any, **options: Any) -> NullWatch:
        every = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
        self.sgd = all(type(one) is torch.optim.SGD for one in every)
        self.plain = self.sgd and all(group["momentum"] == 0 for one in every for group in one.param_groups)
        self.watches.append(NullWatch(model, optimizer, **options))
        return self.watches[-1]


@dataclass(frozen=True)
class Verdict:
    """What was measured on one program: medians over seeds, `learnt` and `turned` the worst seed's."""

    name: str
    family: str
    part: str
    first: float
    last: float
    base: float
    learnt: float  # the fall from the base rate, as a share of the larger of the two losses
    turned: float  # the last validation loss over the best one
    gain: float
    remedy: str
    seconds: float

    @property
    def sound(self) -> bool:
        return self.gain < 0.2 and self.learnt > 0 and self.turned < 1.1 and math.isfinite(self.last)


def check(program: Healthy, seeds: int, remedy_seeds: int) -> Verdict:
    """Run it on `seeds` seeds as it is, and on the first `remedy_seeds` of them with each remedy."""
    look, start = _Look(), time.perf_counter()
    outcomes = [program.function(look, seed) for seed in range(seeds)]
    seconds = (time.perf_counter() - start) / seeds
    validated = [watch.validations for watch in look.watches if len(watch.validations) > 2]
    turned = max([1.0, *(losses[-1] / max(min(losses), 1e-12) for losses in validated)])
    gain, name = -math.inf, ""
    for remedy in (*RATES, *OTHERS):
        if remedy.fits(look.sgd, look.plain):
            found = statistics.median(_gain(program, remedy, seed, outcomes[seed]) for seed in range(remedy_seeds))
            gain, name = max((gain, name), (found, remedy.name))
    first, last, base = (statistics.median(getattr(o, key) for o in outcomes) for key in ("first", "last", "base"))
    learnt = min((o.base - o.last) / max(abs(o.base), abs(o.last), 1e-12) for o in outcomes)
    return Verdict(program.name, program.family, program.part, first, last, base, learnt, turned, gain, name, seconds)


def _gain(program: Healthy, remedy: Remedy, seed: int, plain: Any) -> float:
    """The share of the final loss that the remedy takes away; negative where it harms."""
    last = program.function(remedy, seed).last
    if not math.isfinite(last):
        return -math.inf
    return (plain.last - last) / max(abs(plain.last), DONE * abs(plain.base - plain.last), 1e-12)


# Workers of a pool find these two by import: what stands in a package's __main__ they cannot find.


def alone() -> None:
    """One thread to a process."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")


def by_name(name: str, seeds: int, remedy_seeds: int) -> Verdict:
    """`check` of the program of this name."""
    from benchmarks.diagnose.healthy import HEALTHY

    return check(HEALTHY[name], seeds, remedy_seeds)
