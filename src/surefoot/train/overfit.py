"""Fitting one batch: what cannot do that cannot learn more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.diagnose.checks import Found
from surefoot.diagnose.checks.losses import BCE, BCE_LOGITS, CROSS_ENTROPY, kind_of
from surefoot.task.recipe import Recipe
from surefoot.task.task import Outcome, Task
from surefoot.train import prepare
from surefoot.train.data import Batches
from surefoot.train.distributed import Processes
from surefoot.train.dry_run import examine, first_batches
from surefoot.train.ledger import Laps
from surefoot.train.rng import seed_everything
from surefoot.train.step import Step
from surefoot.train.trouble import explained, usable

RATES = (1.0, 10.0, 0.1, 100.0, 0.01)  # multiples of the recipe's rate, in the order in which they are tried
NEAR = 0.02  # a loss is near its floor when this share of the way to it is left
HOPELESS = ("non-finite-input", "frozen-in-optimizer", "loss-mismatch", "output-range")  # no rate can help
RIGHT = 0.1  # the same where every class of the batch is right


@dataclass(frozen=True)
class Overfit:
    """What came out.

    fits: whether the model fits the batch
    first, last, floor: the loss before, the least loss after, and the least that there can be
    step, lr: when it was near its floor, and at which rate; of the best try where it was not
    right: the share of right classes, where there are classes
    findings: what is certainly wrong
    """

    fits: bool
    first: float
    last: float
    floor: float | None
    step: int
    lr: float
    right: float | None
    findings: Sequence[Found]

    def __str__(self) -> str:
        path = f"the loss of one batch goes from {self.first:.4g} to {self.last:.4g}"
        if self.floor is not None and self.floor > 1e-6:
            path += f" (it cannot be below {self.floor:.4g})"
        if self.right is not None:
            path += f", {self.right:.0%} of its classes are right"
        path += f", in {self.step} steps at lr {self.lr:g}"
        wrong = [f"  {found.cause}: {found.text()}" for found in self.findings]
        if self.fits:
            return "\n".join([f"fits: {path}", *wrong])
        rates = f"{len(RATES)} rates from {min(RATES):g} to {max(RATES):g} of the recipe's were tried"
        if not wrong:
            wrong = [
                "  nothing certain was found: look whether equal inputs have different targets, whether the model "
                "sees its inputs at all, and whether it is large enough; or give it more steps"
            ]
        return "\n".join([f"does not fit: {path}; {rates}", *wrong])


def overfit(
    task: Task, recipe: Recipe | None = None, steps: int = 300, device: str | torch.device | None = None
) -> Overfit:
    """Train on one batch alone until its loss is near its floor: without dropout, weight decay or schedule, at the
    recipe's rate, then at others. Where that fails, the checks say why.

    >>> import torch, surefoot as sf
    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> task = sf.Task(model=lambda: torch.nn.Linear(3, 1), loss=torch.nn.MSELoss(), train=(x, x.sum(1, keepdim=True)))
    >>> overfit(task, sf.Recipe(lr=0.03)).fits
    True
    """
    recipe = (recipe or task.recipe or Recipe()).replace(weight_decay=0.0, ema=None, accumulate=1, nonfinite="skip")
    where = usable(device)
    best: Overfit | None = None
    for factor in RATES:
        tried = _try(task, recipe.replace(lr=factor * recipe.lr), steps, where)
        if best is None or tried.fits or tried.last < best.last:
            best = tried
        if best.fits or any(found.cause in HOPELESS for found in best.findings):
            break
    assert best is not None
    return best


def _try(task: Task, recipe: Recipe, steps: int, device: torch.device) -> Overfit:
    """Train a new model on the first batch, at one rate."""
    seed_everything(recipe.seed)
    data = Batches(task.train, recipe.batch_size, recipe.seed, "training")
    model = prepare.made(task, recipe, device)
    for module in cast("Sequence[nn.Module]", list(model.modules())):
        if isinstance(module, nn.modules.dropout._DropoutNd):  # pyright: ignore[reportPrivateUsage]
            module.p = 0.0
    optimizer = recipe.create_optimizer(model)
    step = Step(task, model, optimizer, recipe, device, Laps(), Processes())
    batches = first_batches(data, 1)
    with explained(task, 1, batches):
        findings, outcome = examine(task, model, optimizer, step, batches)
        first, floor = float(outcome.loss.detach()), lowest(task, outcome)
        steepness, norm, last, right, number = 0.0, 0.0, math.inf, None, 0
        for number in range(1, steps + 1):
            loss, report = step(batches)
            norm = report.grad_norm if number > 1 else norm
            steepness = max(steepness, norm)
            if number % 5 and number < steps:
                continue
            last, right = float(loss), accuracy(task, step, batches[0])
            if near(first, last, floor, right, norm <= NEAR * steepness):
                return Overfit(True, first, last, floor, number, recipe.lr, right, findings)
            if not math.isfinite(last) or last > 1e4 * (abs(first) + 1):
                break
    return Overfit(False, first, last if math.isfinite(last) else math.inf, floor, number, recipe.lr, right, findings)


def near(first: float, last: float, floor: float | None, right: float | None, flat: bool) -> bool:
    """Whether a loss is near its floor; where that is not known, whether it has fallen to where it is flat."""
    if not math.isfinite(last):
        return False
    if floor is None:
        return flat and last < first
    share = (last - floor) / max(first - floor, 1e-12)
    return share <= NEAR or last - floor < 1e-6 or (right == 1.0 and share <= RIGHT)


def lowest(task: Task, outcome: Outcome) -> float | None:
    """The least that the loss can be on a batch: 0, or the entropy of soft targets; None where that is unknown."""
    kind, targets, outputs = kind_of(task.loss), outcome.targets, outcome.outputs
    if not kind or not isinstance(targets, Tensor) or not isinstance(outputs, Tensor):
        return None
    soft = targets.detach().double()
    smoothing = float(getattr(task.loss, "label_smoothing", 0.0))
    if kind == CROSS_ENTROPY and (targets.is_floating_point() or smoothing):
        if not targets.is_floating_point():
            keep = targets != getattr(task.loss, "ignore_index", -100)
            soft = F.one_hot(targets[keep], outputs.shape[1]).double()
        soft = soft * (1 - smoothing) + smoothing / outputs.shape[1]
        return float(-(torch.xlogy(soft, soft)).sum() * outputs.shape[1] / soft.numel())
    if kind in (BCE, BCE_LOGITS):
        return float(-(torch.xlogy(soft, soft) + torch.xlogy(1 - soft, 1 - soft)).mean())
    return 0.0


@torch.no_grad()
def accuracy(task: Task, step: Step, batch: Any) -> float | None:
    """The share of right classes in a batch, in the model's present mode; None where there are none."""
    if kind_of(task.loss) != CROSS_ENTROPY:
        return None
    outcome = step.outcome(batch)
    outputs, targets = outcome.outputs, outcome.targets
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    keep = targets != getattr(task.loss, "ignore_index", -100)
    return float((outputs.argmax(1) == targets)[keep].float().mean())
