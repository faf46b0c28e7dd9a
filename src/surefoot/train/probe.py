"""Trying out, from a run's last checkpoint, what would help."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import chain, islice
from math import isfinite, nan
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.diagnose.probe import probe
from surefoot.diagnose.trials import Probe
from surefoot.errors import UserError
from surefoot.record import Run
from surefoot.task.task import Task
from surefoot.train import rng
from surefoot.train.data import Batches
from surefoot.train.distributed import Processes
from surefoot.train.training import Training

BATCHES = 8


def probed(run: Run, task: Task, steps: int = 50, device: str = "cpu") -> Probe:
    """Try out what would help a run: see `Watch.probe`. The run's files stay as they are.

    The batches are the next ones that it would train on; the rate is the checkpoint's or, after a schedule, what was
    usual in the last half.

    Raises:
        UserError: where there is no checkpoint, and as `Watch.probe` does
    """
    saved, where = run.last, torch.device(device)
    if saved is None:
        raise UserError(f"the run in {run.dir} has no checkpoint: there is nothing to try from")
    before = rng.state(where)
    data = Batches(task.train, run.recipe.batch_size, run.recipe.seed, "training")
    try:
        t = Training(task, run.recipe, (data, None), where, Processes(), {})
        t.restore(saved)
        t.model.train()
        at = t.position
        following = chain(data.epoch(at.epoch, start=at.batch), data.epoch(at.epoch + 1))
        batches = list(islice(following, BATCHES))
        rates, losses = ([v for _, v in run.signal(name) if isfinite(v)] for name in ("train/lr", "train/loss"))
        return probe(
            t.model,
            [t.optimizer],
            [taken_apart(batch, task) for batch in batches],
            compared(task, t.step.outcome),
            steps,
            lr=max(t.optimizer.param_groups[0]["lr"], median(rates[len(rates) // 2 :])),
            level=abs(median(losses[:3])) if losses else nan,
            roots=[task.loss] if isinstance(task.loss, nn.Module) else [],
        )
    finally:
        data.close()
        rng.restore(before, where)


def facts(run: Run) -> Collection[str]:
    """The causes that a run's watch has found by exact checks: no trial refutes them."""
    state: Any = None if run.last is None else run.last.state().get("watch")
    return [] if state is None else [claim["cause"] for claim in state["facts"]]


def taken_apart(batch: Any, task: Task) -> tuple[Any, Any]:
    """A batch as (inputs, rest): of the inputs a probe may standardise the numbers."""
    if task.step is None and isinstance(batch, Mapping):
        named = dict(cast("Mapping[str, Any]", batch))
        return {key: value for key, value in named.items() if key != "targets"}, {"targets": named.get("targets")}
    parts: Any = batch
    if task.step is None and isinstance(batch, list | tuple) and len(parts) > 1:
        return tuple(parts[:-1]), tuple(parts[-1:])
    return (), parts  # what it holds only the task knows; or the targets are the inputs


def compared(task: Task, outcome: Callable[[Any], Any]) -> Callable[[Any, Any], Tensor]:
    """The task's loss on a batch that was taken apart."""

    def loss_of(inputs: Any, rest: Any) -> Tensor:
        named: Any = inputs
        whole: Any = {**named, **rest} if isinstance(inputs, Mapping) else (*inputs, *rest) if inputs else rest
        return outcome(whole).loss

    return loss_of
