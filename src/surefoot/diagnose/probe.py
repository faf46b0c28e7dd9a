"""Trying out what would help: from the weights as they are, some steps with one thing changed, and all put back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from statistics import fmean, median
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.diagnose.inputs import standardised
from surefoot.diagnose.snapshot import (
    Snapshot,
    anew,
    modules,
    parameters,
    refuse_shared,
    reset,
    resettable,
    seeded,
    unchanged,
)
from surefoot.diagnose.structure import normalised
from surefoot.diagnose.trials import Probe, Start, Trial, squashed
from surefoot.errors import UserError
from surefoot.optim import Optimizer as Ours

MOST = 32  # batches
ORDERS = 3  # of the batches, in which each trial is run
RUNGS = 5  # tenfold rates that are tried one after the other, as long as each is better than the one before
POOR = 0.5  # of the level: the loss beyond which weights may be past help
BETTER = 0.02  # of the level of the loss: what a rung must gain
USUAL = 1.0  # the norm that gradients are clipped at where nothing is known
OTHER_RUNGS = 2
OTHER = {"adamw": 1e-3, "sgd-momentum": 1e-2}  # the other optimizer's rate that is tried first


@dataclass(frozen=True)
class Way:
    """How a trial trains: as the loop does, but for what is named here.

    rate: what the rate is multiplied by
    clip: the norm at which gradients are clipped; None: as the loop does, infinity: not at all
    scaled: inputs standardised; other: the kind of another optimizer; fresh: weights drawn anew
    """

    rate: float = 1.0
    clip: float | None = None
    scaled: bool = False
    other: str = ""
    fresh: bool = False


def probe(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterable[tuple[Any, Any]],
    loss_of: Callable[[Any, Any], Tensor],
    steps: int = 50,
    *,
    clip: float | None = None,
    weight: float = 1.0,
    lr: float | None = None,
    level: float = math.nan,
    roots: Sequence[nn.Module] = (),
) -> Probe:
    """Try out what would bring the loss down faster, from the weights as they are; afterwards all is as it was.

    Each trial takes some steps on the given batches, several times over in different orders and with the same random
    numbers as the others, with a new optimizer of the user's kind. What counts is the mean loss over these batches,
    dropout and batch norm as in training. So it tells what makes descent faster, and nothing of generalisation.

    Args:
        model: the model; in the mode in which it trains, or else it is put into training mode
        optimizers: those that train it; they themselves are not touched
        batches: pairs that `loss_of` takes, 32 at most; tensors of floating-point numbers in the first parts are what
            is standardised
        loss_of: the loss of a batch
        steps: how many each trial takes
        clip: the norm at which the loop clips, if it does; what our optimizers clip at is known
        weight: with which the loss reaches backward: below 0 where the loop goes up
        lr: the rate to begin from (the largest of all groups'); None: the present one
        level: what losses are compared to, as that of a model which knows nothing; NaN: the loss as it is now
        roots: modules besides the model that take part, as a criterion

    Raises:
        UserError: for what cannot be put back, and where there is nothing to try on
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"probe(steps={steps!r}): it must be 1 or more")
    refuse_shared(model, parameters(optimizers))
    with unchanged([model, *roots], optimizers) as snapshot:
        taken = list(islice(batches, MOST))
        if not taken:
            raise UserError("probe: there are no batches to try on")
        if not model.training:
            model.train()
        bench = Bench(model, list(optimizers), taken, loss_of, snapshot, steps, clip, weight, lr, level)
        return bench.probe()


@dataclass
class Bench:
    """What trials have in common."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batches: list[tuple[Any, Any]]
    loss_of: Callable[[Any, Any], Tensor]
    snapshot: Snapshot
    steps: int
    clip: float | None
    weight: float
    lr: float | None
    level: float
    norm: float = math.nan  # the usual one of the gradient
    sparse: bool = False
    before: float = math.nan
    modes: list[tuple[nn.Module, bool]] = field(default_factory=list[tuple[nn.Module, bool]])
    done: dict[Way, tuple[float, ...]] = field(default_factory=dict[Way, tuple[float, ...]])

    def __post_init__(self) -> None:
        self.params = [p for p in parameters(self.optimizers) if p.requires_grad]
        self.modes = [(m, m.training) for m in modules(self.model)]
        self.scaled = standardised(self.batches)
        uphill = all(group.get("maximize", False) for o in self.optimizers for group in o.param_groups)
        self.sign = -1.0 if (self.weight < 0) != uphill else 1.0
        self.clips = self.clip is not None or any(o.options.clip_norm for o in self.optimizers if isinstance(o, Ours))

    def probe(self) -> Probe:
        """All trials, the one that changes nothing first; where none helps, the same again from weights drawn anew, as
        those that are there may be past help."""
        self.survey()
        if not math.isfinite(self.before):
            return Probe(self.steps, len(self.batches), self.before, ())
        if not (math.isfinite(self.level) and abs(self.level) > 1e-12):
            self.level = self.before
        trials = [self.trial("as-it-is", Way(), Way(), {}), *self.trials(Way())]
        if resettable(self.model):
            fresh = Way(fresh=True)
            trials.append(self.trial("fresh", fresh, Way(), {}, "init-too-large", "init-too-small", "dead-units"))
            if self.before > POOR * abs(self.level) and not any(trial.sure for trial in trials):
                trials += self.trials(fresh)
        return Probe(self.steps, len(self.batches), self.before, tuple(trials))

    def trials(self, base: Way) -> Iterator[Trial]:
        """What can be changed of a way to train."""
        up, down = self.climb(base, 10.0), self.climb(base, 0.1)
        for factor, best, cause in ((10.0, up, "lr-too-low"), (0.1, down, "lr-too-high")):
            name = "rate-up" if factor > 1 else "rate-down"
            for way in dict.fromkeys(
                (replace(base, rate=factor), best if best != base else replace(base, rate=factor))
            ):
                yield self.trial(name, way, base, {"lr": f"*{way.rate:g}"}, cause)
        if self.clips:
            yield self.trial("unclipped", replace(base, clip=math.inf), base, {"clip_norm": None}, "clip-too-tight")
        elif 0 < self.norm < math.inf and not self.sparse:
            norm = float(f"{min(USUAL, self.norm / 10):.2g}")
            yield self.trial("clipped", replace(base, clip=norm), base, {"clip_norm": norm})
        if self.scaled is not None:
            scaled = replace(base, scaled=self.scaled is not self.batches)
            yield self.trial("scaled", scaled, base, {}, "input-unscaled")
        if not self.sparse:
            kind = "sgd-momentum" if all(map(normalised, self.optimizers)) else "adamw"
            other = replace(base, other=kind)
            best = max(self.climb(other, 10.0), self.climb(other, 0.1), key=self.worth)
            own = max(base, up, down, key=self.worth)  # what it does beyond a better rate
            change = {"optimizer": kind, "lr": OTHER[kind] * best.rate}
            yield self.trial("optimizer", best, own, change, "optimizer-unsuited")

    def trial(self, name: str, way: Way, base: Way, change: Mapping[str, Any], *causes: str) -> Trial:
        """One way beside another."""
        start = Start(self.before, abs(self.level), way.fresh and base.fresh)
        return Trial(name, change, causes, start, self.run(base), self.run(way), way.rate)

    def climb(self, way: Way, factor: float) -> Way:
        """The best of some rates, each so many times the one before: as long as it gets better, or is as bad."""
        best = last = way
        for _ in range(OTHER_RUNGS if way.other else RUNGS):
            last = replace(last, rate=float(f"{last.rate * factor:g}"))
            gain = (self.worth(last) - self.worth(best)) / abs(self.level)
            best = last if gain > 0 else best
            hopeless = factor > 1 or self.worth(best) < -self.before  # too short to matter, or worse than not to move
            if gain < -BETTER or (gain < BETTER and not hopeless):
                break
        return best

    def worth(self, way: Way) -> float:
        """What a way is worth: the less loss, the more."""
        return -fmean(squashed(loss, self.before, abs(self.level)) for loss in self.run(way))

    def survey(self) -> None:
        """What is there before any step: the loss, and the gradient's norm."""
        seeded(0)
        norms, losses = list[float](), list[float]()
        try:
            for batch in self.batches:
                losses.append(float(self.backward(batch)))
                grads = [p.grad for p in self.params if p.grad is not None]
                self.sparse = self.sparse or any(g.layout != torch.strided for g in grads)
                norms.append(0.0 if self.sparse else float(total_norm(grads)))
                self.clear()
        finally:
            self.snapshot.rewind()
        self.norm, self.before = median(norms), self.sign * fmean(losses)

    def run(self, way: Way) -> tuple[float, ...]:
        """The loss after a trial, for each order of the batches; infinite where it was no number."""
        if way not in self.done:
            found = [self.once(way, order) for order in range(ORDERS)]
            self.done[way] = tuple(loss if loss == loss else math.inf for loss in found)
        return self.done[way]

    def once(self, way: Way, seed: int) -> float:
        """Train in one way and one order of the batches; the mean loss of one more round through them.

        The steps go on in it, as the loss at a single point of the way would be chance.
        """
        batches = self.scaled if way.scaled and self.scaled is not None else self.batches
        order = random.Random(seed).sample(batches, len(batches))
        try:
            self.into_mode()
            seeded(seed + 1)
            if way.fresh:
                reset(self.model)
            optimizers = self.made(way)
            clip = self.clip if way.clip is None else way.clip
            losses = [self.step(optimizers, batch, clip) for batch in islice(cycle(order), self.steps + len(order))]
            return self.sign * fmean(losses[self.steps :])
        except OverflowError:
            return math.inf
        finally:
            self.snapshot.rewind()
            self.clear()

    def step(self, optimizers: Sequence[torch.optim.Optimizer], batch: tuple[Any, Any], clip: float | None) -> float:
        """One step; the loss before it. Where that is no finite number, nothing is to be had from there on."""
        losses: list[float] = []

        def closure() -> Tensor:
            self.clear()
            loss = self.backward(batch)
            losses.append(float(loss))
            if clip is not None and clip < math.inf:
                nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], clip)
            return loss

        if all(map(asks, optimizers)):
            for optimizer in optimizers:
                cast("Any", optimizer).step(closure)
        else:
            closure()
            for optimizer in optimizers if math.isfinite(losses[0]) else ():
                cast("Any", optimizer).step(*([closure] if asks(optimizer) else []))
        if not all(map(math.isfinite, losses)):
            raise OverflowError
        return losses[0]

    def backward(self, batch: tuple[Any, Any]) -> Tensor:
        """The loss of a batch, and its gradients."""
        loss = self.loss_of(*batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError("probe: the loss must be a tensor of one number")
        if not loss.requires_grad:
            raise UserError("probe: the loss does not depend on the parameters: there is nothing to try")
        (loss * self.weight).backward()
        return loss.detach()

    def clear(self) -> None:
        for p in self.params:
            p.grad = None

    def into_mode(self) -> None:
        for module, mode in self.modes:
            module.training = mode

    def made(self, way: Way) -> list[torch.optim.Optimizer]:
        """The optimizers of a trial."""
        if way.other:
            uphill = all(group.get("maximize", False) for o in self.optimizers for group in o.param_groups)
            lr = OTHER[way.other] * way.rate
            if way.other == "adamw":
                return [torch.optim.AdamW(self.params, lr, weight_decay=0.0, maximize=uphill)]
            return [torch.optim.SGD(self.params, lr, momentum=0.9, maximize=uphill)]
        optimizers = [anew(each) for each in self.optimizers]
        groups = [group for each in optimizers for group in each.param_groups]
        highest = max(float(group["lr"]) for group in groups)
        for group in groups:  # where a schedule has ended, all begin from the same rate
            share = float(group["lr"]) / highest if highest else 1.0
            group["lr"] = (float(group["lr"]) if self.lr is None else share * self.lr) * way.rate
        for each in optimizers:
            if isinstance(each, Ours) and way.clip is not None:
                each.options = replace(each.options, clip_norm=None)
        return optimizers


def asks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer works out losses itself, as L-BFGS does."""
    return isinstance(optimizer, torch.optim.LBFGS)


def total_norm(grads: Sequence[Tensor]) -> Tensor:
    return cast(Tensor, torch.stack([g.float().norm() for g in grads]).norm()) if grads else torch.zeros(())
