"""Trying a training out before it begins: what the data are, what is wrong, how long it will take."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.diagnose import checks
from surefoot.diagnose.checks import Found
from surefoot.diagnose.checks.losses import CROSS_ENTROPY, NLL, REGRESSION, kind_of
from surefoot.errors import UserError
from surefoot.optim import Optimizer
from surefoot.task.recipe import Recipe
from surefoot.task.task import Outcome, Task, described
from surefoot.task.trees import tensors
from surefoot.train import prepare
from surefoot.train.data import Batches
from surefoot.train.distributed import Processes
from surefoot.train.evaluate import evaluate
from surefoot.train.ledger import Laps
from surefoot.train.loop import grouped
from surefoot.train.plan import Plan
from surefoot.train.progress import clock
from surefoot.train.rng import seed_everything
from surefoot.train.step import Step
from surefoot.train.trouble import explained, usable

LOOKED_AT = 8  # batches
WARM, TIMED = 3, 10  # steps


@dataclass(frozen=True)
class DryRun:
    """What came out.

    findings: what is certainly wrong
    facts: what there is, how long a step takes, how much memory it needs
    """

    findings: Sequence[Found]
    facts: Mapping[str, str]

    @property
    def sound(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        count = len(self.findings)
        verdict = "nothing wrong was found" if self.sound else f"{count} fault{'s' if count > 1 else ''}"
        lines = [f"dry run: {verdict}"]
        lines += [f"  {found.cause}: {found.text()}" for found in self.findings]
        width = max(map(len, self.facts))
        return "\n".join([*lines, "", *(f"{name:{width}}  {fact}" for name, fact in self.facts.items())])


def dry_run(task: Task, recipe: Recipe | None = None, device: str | torch.device | None = None) -> DryRun:
    """Look at some batches, take some steps with a model that is thrown away, and check all that can be checked.

    Leaves nothing behind; the random numbers are seeded as by `train`.

    Raises:
        UserError: where the task fails: the same error as in training

    >>> import torch, surefoot as sf
    >>> x = torch.randn(256, 3)
    >>> model = lambda: torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Softmax(1))
    >>> task = sf.Task(model=model, loss=torch.nn.CrossEntropyLoss(), train=(x, (x[:, 0] > 0).long()))
    >>> [found.cause for found in dry_run(task).findings]
    ['output-activation']
    """
    recipe = recipe or task.recipe or Recipe()
    where = usable(device)
    seed_everything(recipe.seed)
    data = Batches(task.train, recipe.batch_size, recipe.seed, "training")
    val = None if task.val is None else Batches(task.val, recipe.batch_size, None, "validation")
    plan = Plan.of(recipe, data)
    model = prepare.made(task, recipe, where)
    optimizer = recipe.create_optimizer(model)
    step = Step(task, model, optimizer, recipe, where, Laps(), Processes())
    batches = first_batches(data, LOOKED_AT)
    with explained(task, 1, batches[:1]):
        findings, outcome = examine(task, model, optimizer, step, batches)
    facts = facts_of(task, model, data, batches, outcome)
    if val is not None:
        findings += checks.non_finite(next(val.epoch(0)), validation=True)
        values = evaluate(task, model, islice(val.epoch(0), 1), step.outcome, Processes())
        facts["validation"] = ", ".join(f"{name} {value:.4g}" for name, value in values.items()) + " at first"
    return DryRun(findings, {**facts, **cost(step, batches, recipe, plan, where)})


def first_batches(data: Batches, most: int) -> list[Any]:
    """The first batches of the training data."""
    batches = list(islice(data.epoch(0), most))
    if not batches:
        raise UserError("the training data gave no batch")
    return batches


def examine(
    task: Task, model: nn.Module, optimizer: Optimizer, step: Step, batches: Sequence[Any]
) -> tuple[list[Found], Outcome]:
    """What the checks find in some batches, and the first one's outcome. Leaves gradients in the model."""
    found = [*checks.left_out(model, optimizer), *checks.frozen(model, optimizer), *checks.without_rate(optimizer)]
    found += checks.uphill(optimizer, task.loss)
    bad = [each for batch in batches for each in checks.non_finite(batch)][:1]
    model.train()
    outcome = step.outcome(batches[0])
    outcome.loss.backward()
    found += bad or checks.unscaled_inputs(inputs_of(batches[0]), model)
    found += checks.without_gradient(model)
    outputs, targets = outcome.outputs, outcome.targets
    if task.loss is not None:
        found += checks.constant_labels([*(targets_of(batch) for batch in batches)])
        found += checks.shapes(outputs, targets, task.loss)
        found += checks.activation(outputs, task.loss) + checks.labels(outputs, targets, task.loss)
        found += checks.reach(outputs, targets, task.loss)
        found += checks.unscaled_targets(targets, task.loss) + checks.summed(outputs, targets, task.loss)
    return found, outcome


def inputs_of(batch: Any) -> Any:
    """A batch without its targets."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "targets"}  # pyright: ignore[reportUnknownVariableType]
    return batch[:-1] if isinstance(batch, tuple | list) and len(batch) > 1 else batch  # pyright: ignore


def targets_of(batch: Any) -> Any:
    """A batch's targets."""
    if isinstance(batch, Mapping):
        return batch.get("targets")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None  # pyright: ignore


def facts_of(task: Task, model: nn.Module, data: Batches, batches: Sequence[Any], outcome: Outcome) -> dict[str, str]:
    """What there is."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    frozen = "" if trainable == total else f", {total - trainable:,} frozen"
    items = f"{data.items:,} items" if data.items else "items of unknown number"
    facts = {
        "model": f"{type(model).__name__}, {trainable:,} trainable parameters{frozen}",
        "data": f"{items}, " + (f"{len(data):,} batches an epoch" if data.sized else "a stream"),
        "batch": described(batches[0]),
    }
    for place, t in tensors(batches[0]):
        if t.numel() and not t.is_complex() and t.dtype != torch.bool:
            facts[f"batch {place}".strip()] = f"from {t.min().item():.4g} to {t.max().item():.4g}"
    facts["loss"] = f"{float(outcome.loss.detach()):.4g} at first{base_rate(task, outcome)}"
    return facts


def base_rate(task: Task, outcome: Outcome) -> str:
    """What a model would reach that knows nothing but how often each class comes, or the targets' mean."""
    outputs, targets, kind = outcome.outputs, outcome.targets, kind_of(task.loss)
    if isinstance(outputs, Tensor) and outputs.ndim > 1 and kind in (CROSS_ENTROPY, NLL):
        return f"; guessing among {outputs.shape[1]} classes would be {math.log(outputs.shape[1]):.4g}"
    if isinstance(targets, Tensor) and kind == REGRESSION[0] and targets.numel() > 1:
        return f"; the targets' variance is {targets.double().var().item():.4g}"
    return ""


def cost(step: Step, batches: Sequence[Any], recipe: Recipe, plan: Plan, device: torch.device) -> dict[str, str]:
    """How long steps take, and all of them; how much memory there must be."""
    groups = list(grouped(batches, recipe.accumulate))
    again: Iterator[Any] = chain.from_iterable(repeat(groups))
    times: list[float] = []
    step.model.train()
    for number, some in enumerate(islice(again, WARM + TIMED)):
        began = time.perf_counter()
        with explained(step.task, number + 1, some):
            step(some)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    each = statistics.median(times[WARM:])
    return {
        "steps": f"{plan.steps:,}, {1e3 * each:.3g} ms each: about {clock(each * plan.steps)} without validation",
        "memory": memory(device),
    }


def memory(device: torch.device) -> str:
    """The most memory that was in use."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MB at most on {device}"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; on macOS bytes
    return f"{most / (2**20 if sys.platform == 'darwin' else 2**10):,.0f} MB at most in this process"
