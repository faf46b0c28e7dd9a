"""All that a watch has measured, as plain data: what detectors read, and what is kept with a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from surefoot.watch.batches import Batches
from surefoot.watch.layers import FIELDS
from surefoot.watch.picks import Floats
from surefoot.watch.series import Series

RECENT_STEPS = 4096
RECENT_LOOKS = 192
RECENT_VALIDATIONS = 1024


class Step(NamedTuple):
    """One step's numbers; NaN where not measured.

    step: 1 is the first; loss: of the training batches; lr: of the first group (the largest of all)
    grad_norm: of all gradients as the optimizer got them (our optimizers: before their clipping)
    weight: the gradient that reached the loss: 1, or a loss scale, or a share of accumulation, or below 0
    backwards: backward passes since the step before; clip: the factor of clipping, where our optimizer clips
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    weight: float
    backwards: int
    clip: float


class Validation(NamedTuple):
    """One validation: its mean loss and metric, NaN where unknown."""

    step: int
    loss: float
    metric: float
    higher_is_better: bool
    passes: int


@dataclass
class Look:
    """What was measured at a sampled step, for each of the picked tensors in their order.

    grad, weight, update: root mean squares; zeros: the share of gradients that are 0; moved: the share of elements with
    a gradient that moved
    cosine: between this step's gradient and the next one's
    overshoot: the slope along this step's update after it, relative to that before (by the next batch's gradient): 1
    for a step that is short, 0 for one to the bottom, below 0 for one beyond it
    momentum: cosine between update and the descent direction (minus gradient)
    clip: what clipping multiplied gradients by; NaN if unknown
    noise: how much this gradient and the next one differ, relative to their sizes
    undone: the share of elements that had moved and were back where they had been before the next step
    travel: how far the weights are from those of the first look, in updates of this step's length
    layers: what entered the layers, `[layers, fields]`
    """

    step: int
    grad: Floats
    weight: Floats
    update: Floats
    zeros: Floats
    moved: Floats
    cosine: float = float("nan")
    overshoot: float = float("nan")
    momentum: float = float("nan")
    clip: float = float("nan")
    noise: float = float("nan")
    undone: float = float("nan")
    travel: float = float("nan")
    layers: Floats = field(default_factory=lambda: np.zeros((0, len(FIELDS))))

    def numbers(self, signals: Signals) -> dict[str, float]:
        """What was measured at the step itself, by name; norms are estimated from the picked elements."""
        sizes = np.sqrt(signals.sizes)
        with np.errstate(all="ignore"):
            norms, ratios = self.grad * sizes, self.update / self.weight
            found = {
                "watch/update_norm": float(np.sqrt(np.square(self.update * sizes).sum())),
                "watch/update_ratio": float(np.median(ratios[np.array(signals.matrices, bool)])),
                "watch/descent_cosine": self.momentum,
                "watch/clip_factor": self.clip,
                "watch/zero_gradients": float(self.zeros.mean()),
            }
        for name, norm, ratio in zip(signals.names, norms.tolist(), ratios.tolist(), strict=True):
            found |= {f"watch/grad_norm/{name}": norm, f"watch/update_ratio/{name}": ratio}
        for name, row in zip(signals.layers, self.layers.tolist(), strict=False):
            of_layer = dict(zip(FIELDS, row, strict=True))
            found |= {f"watch/{key}/{name}": of_layer[key] for key in ("mean", "scale", "dead", "saturated")}
        return {name: value for name, value in found.items() if value == value}

    def followed(self) -> dict[str, float]:
        """What the next step's gradient said of it."""
        found = {"watch/cosine": self.cosine, "watch/overshoot": self.overshoot, "watch/noise": self.noise}
        return {name: value for name, value in found.items() if value == value}


@dataclass
class Counts:
    """What happened how often; steps at which it was first seen are those after which it happened.

    closely: steps that were watched closely; what follows happened at those
    thrown: backward passes whose gradients were cleared before a step
    stale: steps that took gradients of older batches; skipped: steps that a loss scaler left out
    foreign: backward passes before which weights had moved without a step
    """

    closely: int = 0
    backwards: int = 0
    thrown: int = 0
    skipped: int = 0
    stale: int = 0
    foreign: int = 0
    in_eval_mode: int = 0
    validated_in_train_mode: int = 0
    validations: int = 0
    broken_losses: int = 0
    flat_losses: int = 0  # losses that cannot reach backward: detached outputs
    first: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, name: str, step: int) -> None:
        setattr(self, name, getattr(self, name) + 1)
        self.first.setdefault(name, step)


@dataclass
class Signals:
    """See the classes above.

    waits: the share of time that went into waiting for data, between looks; not kept for a resumed run, as it is of
        another machine's time
    names: of the picked tensors; matrices: which of them are matrices; sizes: how many elements they have
    layers: names of those whose input is looked at
    """

    steps: Series[Step] = field(default_factory=lambda: Series[Step](RECENT_STEPS))
    looks: Series[Look] = field(default_factory=lambda: Series[Look](RECENT_LOOKS))
    validations: Series[Validation] = field(default_factory=lambda: Series[Validation](RECENT_VALIDATIONS))
    batches: Batches = field(default_factory=Batches)
    counts: Counts = field(default_factory=Counts)
    names: list[str] = field(default_factory=list[str])
    layers: list[str] = field(default_factory=list[str])
    matrices: list[bool] = field(default_factory=list[bool])
    sizes: list[float] = field(default_factory=list[float])
    waits: Series[float] = field(default_factory=lambda: Series[float](RECENT_LOOKS))
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def column(self, name: str) -> Floats:
        """One number of all kept steps."""
        at = Step._fields.index(name)
        return np.array([step[at] for step in self.steps.items], float)

    def of_looks(self, name: str) -> Floats:
        """One number (or one row) of all kept looks."""
        return np.array([getattr(look, name) for look in self.looks.items], float)

    def measured(self, after: int) -> Iterator[tuple[int, dict[str, float]]]:
        """What was measured after a step, by step and name: what is kept in a run's record."""
        weights = {step.step: step.weight for step in self.steps.items[-RECENT_LOOKS:] if step.step > after}
        for look in self.looks.items:
            if look.step > after:
                yield look.step, {"watch/loss_weight": weights.get(look.step, 1.0), **look.numbers(self)}
            if look.step >= after and look.followed():
                yield look.step + 1, look.followed()

    def arrays(self) -> dict[str, Floats]:
        """The steps and looks as arrays."""
        looks = {f.name: np.array([getattr(look, f.name) for look in self.looks.items], float) for f in fields(Look)}
        steps = np.array(self.steps.items, float).reshape(-1, len(Step._fields))
        validations = np.array(self.validations.items, float).reshape(-1, len(Validation._fields))
        found = {
            "steps": steps,
            "validations": validations,
            **{f"look {name}": values for name, values in looks.items()},
        }
        return {**found, **{f"data {name}": values for name, values in self.batches.arrays().items()}}

    def rest(self) -> dict[str, Any]:
        """All the rest."""
        return {
            "data": self.batches.rest(),
            "counts": asdict(self.counts),
            "names": list(self.names),
            "layers": list(self.layers),
            "matrices": list(self.matrices),
            "facts": dict(self.facts),
        }

    def load(self, arrays: Mapping[str, Floats], rest: Mapping[str, Any]) -> None:
        """Take up what `arrays` and `rest` gave."""
        self.steps.items = [_step(row) for row in arrays["steps"].tolist()]
        columns = {f.name: arrays[f"look {f.name}"] for f in fields(Look)}
        rows = [{name: values[i] for name, values in columns.items()} for i in range(len(columns["step"]))]
        self.looks.items = [Look(**{k: v if v.ndim else v.item() for k, v in row.items()}) for row in rows]
        rows = arrays["validations"].tolist()
        self.validations.items = [Validation(int(step), loss, m, bool(high), int(n)) for step, loss, m, high, n in rows]
        data = {name.removeprefix("data "): values for name, values in arrays.items() if name.startswith("data ")}
        self.batches.load(data, rest["data"])
        self.counts = Counts(**rest["counts"])
        self.names, self.layers, self.matrices = list(rest["names"]), list(rest["layers"]), list(rest["matrices"])
        self.facts = dict(rest["facts"])


def _step(row: list[float]) -> Step:
    step, loss, lr, norm, weight, backwards, clip = row
    return Step(int(step), loss, lr, norm, weight, int(backwards), clip)
