"""The training loop: the guide's complete template (section 7), from top to bottom."""

from __future__ import annotations

import logging
import math
import random
import re
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from surefoot.errors import UserError
from surefoot.record import Recorder, Run
from surefoot.record.checkpoint import refuse_unsavable
from surefoot.record.run import refuse_used
from surefoot.schedule import drive
from surefoot.task.load import fingerprint, origin, same
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task
from surefoot.train.data import Batches, to_device
from surefoot.train.evaluate import evaluate, refresh
from surefoot.train.progress import show
from surefoot.train.state import Position, concluded
from surefoot.train.stop import Interrupted, StopRequest
from surefoot.train.trouble import explained, non_finite, usable

log = logging.getLogger("surefoot")

REPORT_EVERY = 0.2  # seconds between two looks at the signals; each look makes the step wait for the device


def train(
    task: Task,
    recipe: Recipe | None = None,
    dir: str | Path | None = None,
    *,
    resume: bool = False,
    device: str | torch.device | None = None,
    quiet: bool = False,
) -> Run:
    """Train a task as a recipe says. Seeds the random numbers of Python, NumPy and torch.

    Args:
        task: what to train
        recipe: how; where none is given, the task's own, or the usual one
        dir: the run's directory; where none is given, `runs/` and the task's name
        resume: go on with the run in `dir` from its last checkpoint, by its own recipe
        device: where to compute; where none is given, on a GPU if there is one
        quiet: show nothing

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
    dir = Path(dir) if dir is not None else default_dir(task)
    if resume:
        recipe = recipe_to_resume(Run(dir), task, recipe)
    else:
        refuse_used(dir)
        recipe = recipe or task.recipe or Recipe()
    device = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    seed_everything(recipe.seed)

    train_data = Batches(task.train, recipe.batch_size, recipe.seed, "training")
    val_data = None if task.val is None else Batches(task.val, recipe.batch_size, None, "validation")
    model = task.model()
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"the model function of {task.name} must return a model; it returned {type(model).__name__}")
    model.to(device)
    if isinstance(task.loss, nn.Module):  # class weights and the like
        task.loss.to(device)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"the model of {task.name} has no trainable parameters")
    refuse_unsavable(model)
    optimizer = recipe.create_optimizer(model)
    steps = recipe.epochs * len(train_data)
    every_step = recipe.schedule_every == "step"
    schedule = drive(optimizer, lr=recipe.shape(steps if every_step else recipe.epochs))

    position = Position()
    run = Run(dir) if resume else Run.create(dir, task, recipe)
    last = run.last
    if last is not None:
        last.load_model(model)
        state = last.state()
        optimizer.load_state_dict(state["optimizer"])
        optimizer.train()  # saved are the weights to be used, and in the optimizer's state those to go on from
        schedule.load_state_dict(state["schedule"])
        position = Position(**state["position"])
        if position.batch and isinstance(task.train, DataLoader):
            log.warning(
                "the DataLoader has its own order: items of the epoch that goes on may come twice or not at all"
            )
    began = time.monotonic() - position.seconds
    looked = -math.inf
    latest: dict[str, float] = {}

    def look() -> None:
        """Write the signals gathered since the last look, and stop where a loss or a gradient is no number."""
        nonlocal looked
        rows = record.take()
        bad = next((row for row in rows if not math.isfinite(row[2])), None)
        if bad is None or bad[0] > 1:  # at the very first step the run is discarded
            record.write([row for row in rows if bad is None or row[0] <= bad[0]])
        if bad is not None:
            raise non_finite(*bad, run)
        latest.update({name: value for _, name, value in rows})
        losses.extend(value for _, name, value in rows if name == "train/loss")
        progress.step(position.step, latest)
        looked = time.monotonic()

    def save(values: dict[str, float], best: bool = False) -> None:
        position.seconds = time.monotonic() - began
        record.flush()
        with optimizer.evaluating():
            state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "position": vars(position)}
            run.save(model, state, position.epoch, position.step, values, best)

    def leave() -> Interrupted:
        assert stop.signum is not None
        if position.step == 0:
            return Interrupted(stop.signum, "stopped before the first step")
        look()
        save({})
        where = f"epoch {position.epoch + 1}, step {position.step}"
        return Interrupted(stop.signum, f"stopped in {where}; all is saved, --resume (resume=True) goes on from here")

    with (
        run.opened(),
        concluded(run, position, device),
        Recorder(run, position.step) as record,
        show(recipe.epochs, steps, position.step, quiet) as progress,
        StopRequest() as stop,
        torch.enable_grad(),
    ):
        losses = [value for step, value in record.store.read("train/loss") if step > position.step - position.batch]
        for epoch in range(position.epoch, recipe.epochs):
            model.train()
            for batch in stop.guard(train_data.epoch(epoch, start=position.batch)):
                with explained(task, position.step + 1, batch):
                    optimizer.zero_grad()
                    loss = task.outcome(model, to_device(batch, device)).loss
                    loss.backward()
                    optimizer.step()
                report = optimizer.last
                assert report is not None

                position.step += 1
                position.batch += 1
                lr = optimizer.param_groups[0]["lr"]
                if report.skipped:
                    log.warning("step %d is skipped: %s", position.step, report.reason)
                else:
                    norm = partial(getattr, report, "grad_norm")  # worked out at the next look
                    record.add(position.step, {"train/loss": loss.detach(), "train/lr": lr, "train/grad_norm": norm})
                    if every_step:
                        schedule.step()
                if time.monotonic() - looked > REPORT_EVERY:
                    look()
            if stop.signum:
                raise leave()
            look()

            with optimizer.evaluating():
                refresh(task, model, optimizer, train_data, device)
                values = evaluate(task, model, stop.guard(val_data.epoch(0)), device) if val_data else {}
            if stop.signum:
                raise leave()
            if not every_step:
                schedule.step()
            position.epoch, position.batch = epoch + 1, 0
            held = run.best
            best = bool(values) and task.better(values, held.values if held else None)
            record.add(position.step, values)
            record.write(record.take())
            save(values, best)
            mean_loss = sum(losses) / max(len(losses), 1)
            progress.epoch(epoch + 1, {**latest, "train/loss": mean_loss, **values}, best)
            losses.clear()
    if stop.signum:  # it came when nothing was left to stop
        raise Interrupted(stop.signum, "stopped; the training was complete")
    return run


def default_dir(task: Task) -> Path:
    """Where a task's run goes if nobody says where.

    >>> default_dir(Task(model=lambda: None, loss=lambda o, t: 0, train=[], name="my/task.py:small")).as_posix()
    'runs/my-task.py-small'
    """
    return Path("runs") / (re.sub(r"[^\w.]+", "-", task.name).strip("-.") or "task")


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers."""
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


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
