"""The training loop, from top to bottom."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from surefoot.errors import UserError
from surefoot.record import Recorder, Run
from surefoot.record.checkpoint import refuse_unsavable
from surefoot.record.run import refuse_used
from surefoot.task.load import fingerprint, origin, same
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task
from surefoot.train.between import Between, Unrecorded
from surefoot.train.data import Batches
from surefoot.train.distributed import joined, local
from surefoot.train.progress import show
from surefoot.train.rng import seed_everything
from surefoot.train.state import concluded
from surefoot.train.stop import Interrupted, StopRequest
from surefoot.train.training import Callback, Training, checked
from surefoot.train.trouble import RolledBackError, explained, usable
from surefoot.train.watching import watched

log = logging.getLogger("surefoot")

COLLECT_EVERY = 10.0  # seconds between two runs of the garbage collector


def train(
    task: Task,
    recipe: Recipe | None = None,
    dir: str | Path | None = None,
    *,
    resume: bool = False,
    device: str | torch.device | None = None,
    quiet: bool = False,
    workers: int = 0,
    distributed: str | None = None,
    callbacks: Mapping[str, Callback] | None = None,
    watch: bool = True,
) -> Run:
    """Train a task as a recipe says. Seeds the random numbers of Python, NumPy and torch.

    Args:
        task: what to train
        recipe: how; where none is given, the task's own, or the usual one
        dir: the run's directory; where none is given, `runs/` and the task's name
        resume: go on with the run in `dir` from its last checkpoint, by its own recipe
        device: where to compute; where none is given, on a GPU if there is one
        quiet: show nothing
        workers: processes that fetch the items of a Dataset; they change neither order nor random numbers
        distributed: "ddp" or "fsdp", in processes that torchrun has started
        callbacks: functions of the `Training`, by the point at which they are called: "start", "step" (after each),
            "evaluation", "checkpoint", "end"
        watch: watch the training (`sf.watch`): `run.findings` tell what is wrong with it

    Returns:
        the run: `run.best` and `run.last` are its checkpoints, `run.signal("train/loss")` its record

    Raises:
        UserError: for bad input, leaving nothing behind; for a loss that is no number, naming the step
        Interrupted: (a KeyboardInterrupt) on Ctrl-C or SIGTERM, after saving

    >>> import tempfile, torch, surefoot as sf
    >>> x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    >>> data = (x, x.sum(1, keepdim=True))
    >>> task = sf.Task(model=lambda: torch.nn.Linear(3, 1), loss=torch.nn.MSELoss(), train=data, val=data)
    >>> with tempfile.TemporaryDirectory() as dir:
    ...     run = sf.train(task, sf.Recipe(lr=0.1, epochs=20), dir + "/first", quiet=True)
    ...     print(run.best.values["val/loss"] < 0.01)
    True
    """
    if not isinstance(task, Task) or not isinstance(recipe, Recipe | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError("train(task, recipe, dir): the task must be a sf.Task and the recipe a sf.Recipe")
    callbacks = checked(callbacks)
    dir = Path(dir) if dir is not None else default_dir(task)
    device = usable(local(device))
    with joined(distributed, device) as processes:
        if resume:
            recipe = recipe_to_resume(Run(dir), task, recipe)
        else:
            if processes.first:
                refuse_used(dir)
            processes.wait()
            recipe = recipe or task.recipe or Recipe()
        seed_everything(recipe.seed)
        share: dict[str, Any] = {"rank": processes.rank, "world": processes.world, "pin": device.type == "cuda"}
        data = Batches(task.train, recipe.batch_size, recipe.seed, "training", workers, **share)
        val = None if task.val is None else Batches(task.val, recipe.batch_size, None, "validation", workers, **share)
        training = Training(task, recipe, (data, val), device, processes, callbacks)
        refuse_unsavable(training.model)
        if processes.rank:
            seed_everything(recipe.seed + processes.rank)  # their dropout is not the first one's
        run = training.begin(dir, resume)
        try:
            _train(training, quiet, watch)
        finally:
            data.close()
            if val is not None:
                val.close()
    return run


def _train(t: Training, quiet: bool, watch: bool) -> None:
    recipe = t.recipe
    epochs = recipe.epochs if recipe.steps is None and recipe.evaluate_every is None else None
    with (
        t.run.opened() if t.processes.first else nullcontext(),  # nobody else trains there
        concluded(t),
        Recorder(t.run, t.position.step) if t.processes.first else Unrecorded() as record,
        show(epochs, t.plan.steps, t.position.step, quiet or not t.processes.first) as progress,
        watched(t, record, quiet or not t.processes.first, watch),
        StopRequest() as stop,
        collecting_rarely() as collect,
        torch.enable_grad(),
    ):
        between = Between(t, record, progress, stop, collect)
        between.begin()
        while not t.over(stop):
            with suppress(RolledBackError):  # it goes on from an earlier step
                _epoch(t, between)
        between.look()
        signalled = t.processes.agreed(stop.signum is not None)
        if not signalled and t.evaluated_at != t.position.step:
            between.evaluate(epoch_ends=t.epoch_is_over)
        if (signalled and not t.complete) or t.evaluated_at != t.position.step:
            raise between.leave()
        between.end()
    if stop.signum:  # it came when nothing was left to stop
        raise Interrupted(stop.signum, "stopped; the training was complete")


def _epoch(t: Training, between: Between) -> None:
    """Take the steps that are left of an epoch, and do what is due at its end."""
    every = t.recipe.evaluate_every
    t.forward.train()
    if t.over(between.stop):  # the model's own code may have been told
        return
    t.laps.lap("save")
    for batches in grouped(t.data.epoch(t.position.epoch, start=t.position.batch), t.recipe.accumulate):
        t.laps.lap("data")
        with explained(t.task, t.position.step + 1, batches):
            loss, report = t.step(batches)
        t.stepped(loss, report, batches)
        between.look_if_due(report, batches)
        if t.callbacks:
            t.call("step")
        if every is not None and t.position.step % every == 0 and not between.stop.signum:
            between.evaluate()
        if t.over(between.stop):
            return
    if t.position.batch == 0:
        raise UserError("the training data gave no batch")
    if every is None:
        between.evaluate(epoch_ends=True)
    else:
        between.end_epoch()


def grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Batches in groups of so many; the last one of an epoch may be smaller."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def collecting_rarely() -> Generator[Callable[[float], None]]:
    """While this context lasts, Python's garbage collector runs when it is called, at most every some seconds.

    Its own runs come in the midst of steps, and look at all that torch has ever made.
    """
    was, last = gc.isenabled(), time.monotonic()

    def collect(now: float) -> None:
        nonlocal last
        if was and now - last > COLLECT_EVERY:
            gc.collect()
            last = now

    gc.disable()
    gc.freeze()
    try:
        yield collect
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


def default_dir(task: Task) -> Path:
    """Where a task's run goes if nobody says where.

    >>> default_dir(Task(model=lambda: None, loss=lambda o, t: 0, train=[], name="my/task.py:small")).as_posix()
    'runs/my-task.py-small'
    """
    return Path("runs") / (re.sub(r"[^\w.]+", "-", task.name).strip("-.") or "task")


def recipe_to_resume(run: Run, task: Task, recipe: Recipe | None) -> Recipe:
    """A run's own recipe; refuses another task or recipe than the run began with."""
    began = run.task
    if not same(began["task"], Path(began["source"] or ""), task.name, origin(task)):
        raise UserError(f"the run in {run.dir} trains {began['task']}, not {task.name}: it cannot be resumed so")
    if began["sha256"] != fingerprint(task):
        log.warning("the file of %s has changed since the run in %s began", task.name, run.dir)
    own = run.recipe
    for f in fields(own):
        if recipe is not None and getattr(recipe, f.name) != getattr(own, f.name):
            asked, has = getattr(recipe, f.name), getattr(own, f.name)
            raise UserError(f"a resumed run keeps its recipe: {f.name} is {has!r} in {run.dir}, not {asked!r}")
    return own
