"""A training under way: its parts, and all that it goes on from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.engine.report import Report
from surefoot.errors import UserError, unknown
from surefoot.record import Checkpoint, Run
from surefoot.schedule import drive
from surefoot.schedule.plateau import Memory
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task
from surefoot.train import prepare, rng, sharing
from surefoot.train.averages import put_back, usable
from surefoot.train.data import Batches
from surefoot.train.distributed import Processes
from surefoot.train.evaluate import evaluate
from surefoot.train.ledger import Laps, Ledger
from surefoot.train.memory import items
from surefoot.train.plan import Pending, Plan, Position
from surefoot.train.step import Step
from surefoot.train.stop import StopRequest

log = logging.getLogger("surefoot")

REFRESHING = 50  # batches that batch norm's statistics are measured on
POINTS = ("start", "step", "evaluation", "checkpoint", "end")
Callback = Callable[["Training"], object]


class Training:
    """A training under way: what callbacks are given.

    task, recipe, run: what is trained, how, and where it is kept
    model, optimizer, schedule: its parts
    position: where it stands: `epoch`, `batch`, `step`, `seconds`
    latest: the newest number of every signal, some tenths of a second old
    values: the results of the last evaluation
    findings: what the watch found, once the training is over
    ledger, laps: what was done, and where the time went

    `stop(reason)` ends it after the step that is under way, as if that were its planned end.
    """

    run: Run

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        data: tuple[Batches, Batches | None],
        device: torch.device,
        processes: Processes,
        callbacks: Mapping[str, Callback],
    ) -> None:
        self.task, self.recipe, self.device, self.processes, self.callbacks = task, recipe, device, processes, callbacks
        self.data, self.val = data
        self.plan = Plan.of(recipe, self.data)
        self.model = prepare.made(task, recipe, device)
        self.forward = processes.wrapped(self.model, device)
        self.optimizer = recipe.create_optimizer(self.model)
        self.every_step = recipe.schedule_every == "step"
        total: Any = self.plan.steps if self.every_step else self.plan.epochs
        if total is None:
            raise UserError('the training data are a stream: let the schedule count steps (schedule_every="step")')
        self.schedule = drive(self.optimizer, lr=recipe.shape(total, self.plan.an_epoch))
        self.laps, self.ledger, self.position = Laps(), Ledger(), Position()
        self.step = Step(task, self.forward, self.optimizer, recipe, device, self.laps, processes)
        self.patience = Memory()
        self.latest: dict[str, float] = {}
        self.values: dict[str, float] = {}
        self.losses: list[float] = [0.0, 0]  # of the epoch that is under way: sum and count
        self.reason = ""
        self.evaluated_at = -1  # the step of the last checkpoint that an evaluation belongs to
        self.best: dict[str, float] | None = None  # the results of the best evaluation
        self.skips = 0  # steps in a row that were left out
        self.pending: list[Pending] = []
        self.seen: dict[str, Any] | None = None  # what the watch of the run that this one goes on from had measured
        self.findings: list[dict[str, Any]] = []
        self.began = time.monotonic()

    def begin(self, dir: Path, resume: bool) -> Run:
        """Make the run's directory, or go on from the last checkpoint in it."""
        if not resume and self.processes.first:
            self.run = Run.create(dir, self.task, self.recipe)
        self.processes.wait()
        if resume or not self.processes.first:
            self.run = Run(dir)
        last = self.run.last if resume else None
        if last is not None:
            self.restore(last)
        return self.run

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        state = saved.state()
        sharing.load(self.model, self.optimizer, saved, state["optimizer"], self.processes)
        self.optimizer.train()  # saved are the weights to be used, and in the optimizer's state those to go on from
        if state["trained"]:
            put_back(self.model, state["trained"])
        self.schedule.load_state_dict(state["schedule"])
        self.step.load_state_dict(state["step"])
        self.patience = Memory.of(state["patience"])
        self.position, self.ledger = Position(**state["position"]), Ledger(**state["ledger"])
        self.laps.seconds.update(state["laps"])
        self.losses, self.evaluated_at = list(state["losses"]), state["evaluated_at"]
        self.best, self.skips, self.pending = state["best"], state["skips"], []
        self.seen = state.get("watch")  # checkpoints of earlier versions have none
        if self.step.watch is not None and self.seen is not None:
            self.step.watch.load_state_dict(self.seen)
        self.began = time.monotonic() - self.position.seconds
        if len(state["own"]) == self.processes.world:
            own = state["own"][self.processes.rank]
            rng.restore(own["rng"], self.device)
            self.data.load_position_state(own["data"])
        else:
            log.warning("the run had %d processes, now there are %d: it goes on, but not bit for bit",
                        len(state["own"]), self.processes.world)  # fmt: skip
        if state["threads"] != torch.get_num_threads():
            log.warning(
                "the run had %d threads, now there are %d: sums are rounded otherwise, so it goes on, but not bit for "
                "bit; for that, torch.set_num_threads(%d) or OMP_NUM_THREADS",
                state["threads"], torch.get_num_threads(), state["threads"],
            )  # fmt: skip

    def stepped(self, loss: Tensor, report: Report, batches: list[Any]) -> None:
        """Take note of a step."""
        at, lr = self.position, self.optimizer.param_groups[0]["lr"]
        at.step += 1
        self.pending.append(Pending(at.step, at.epoch, at.batch, loss, report, lr))
        at.batch += len(batches)
        for batch in batches:
            self.ledger.samples += items(batch)
        if self.every_step:
            self.schedule.step()

    def usable(self) -> AbstractContextManager[dict[str, Any]]:
        """While this context lasts, the model holds what is to be evaluated and saved: see `averages.usable`."""
        state = partial(sharing.optimizer_state, self.model, self.optimizer, self.processes)
        return usable(self.model, self.optimizer, state, self._some if self.data.repeats else None, self.step.outcome)

    def validated(self, stop: StopRequest) -> dict[str, float]:
        """The validation's results with the weights that the model holds; of a part, once stopping is asked for."""
        if self.val is None:
            return {}
        batches = self.val.epoch(0) if self.processes.world > 1 else stop.guard(self.val.epoch(0))
        return evaluate(self.task, self.forward, batches, self.step.watched, self.processes)

    def write(
        self, values: Mapping[str, float], aside: Mapping[str, Any], best: bool, after: Callable[[], object]
    ) -> None:
        """Write a checkpoint of all that the training goes on from, while the model holds what is to be saved.

        Args:
            aside: what `usable` gave
            after: brings the record to the disk, which must be there first
        """
        at = self.position
        at.seconds = time.monotonic() - self.began
        own = {"rng": rng.state(self.device), "data": self.data.position_state()}
        weights = sharing.weights(self.model, self.processes)
        state = {
            **aside,
            "schedule": self.schedule.state_dict(),
            "step": self.step.state_dict(),
            "patience": self.patience.state_dict(),
            "position": vars(at),
            "ledger": vars(self.ledger),
            "laps": self.laps.seconds,
            "losses": self.losses,
            "evaluated_at": self.evaluated_at,
            "best": self.best,
            "skips": self.skips,
            "watch": None if self.step.watch is None else self.step.watch.state_dict(),
            "own": self.processes.gathered(own),
            "threads": torch.get_num_threads(),
        }
        if self.processes.first:
            keep = self.recipe.keep_best
            merit = self.task.merit(values)
            self.run.save(
                weights, state, at.epoch, at.step, values, best, merit=merit, keep=keep, wait=False, after=after
            )

    def facts(self) -> dict[str, Any]:
        """The ledger: what really happened."""
        world, data = self.processes.world, self.data
        samples = self.ledger.samples * world
        return {
            **self.ledger.facts(self.laps),
            "samples": samples,
            "repeated": max(samples - data.items, 0) if data.items else None,
            "schedule": self.schedule.time,
            "lr": self.optimizer.param_groups[0]["lr"],
            "effective_batch": samples / max(self.position.step, 1),
        }

    @property
    def complete(self) -> bool:
        """Whether all planned steps are taken."""
        return self.position.step >= self.plan.steps

    @property
    def epoch_is_over(self) -> bool:
        """Whether the batches of an epoch are used up."""
        return self.data.sized and self.position.batch >= len(self.data)

    def lower_rate(self, factor: float) -> None:
        """Multiply the learning rate, now and for all that is to come."""
        for group in self.optimizer.param_groups:
            group["initial_lr"] *= factor
        self.schedule.load_state_dict(self.schedule.state_dict())  # which writes the rates

    def stop(self, reason: str) -> None:
        """End after this step."""
        self.reason = self.reason or reason

    def over(self, stop: StopRequest) -> bool:
        """Whether no further step is to be taken: all are, or somebody wants it to stop."""
        if self.recipe.seconds is not None and time.monotonic() - self.began >= self.recipe.seconds:
            self.stop(f"the time limit of {self.recipe.seconds:g} s is over")
        asked = stop.signum is not None or bool(self.reason)
        if self.processes.world > 1:  # all must stop at the same step: the next one tells the others
            asked = self.step.all_asked(asked, self.position.step)
        return asked or self.complete

    def call(self, point: str) -> None:
        """Call the user's function for a point of the training, if there is one.

        Raises:
            UserError: where it raises, naming it
        """
        function = self.callbacks.get(point)
        if function is None:
            return
        try:
            function(self)
        except UserError:
            raise
        except Exception as error:
            name = getattr(function, "__qualname__", repr(function))
            raise UserError(
                f"the callback {name} ({point!r}, at step {self.position.step}) raised {error!r}"
            ) from error

    def have_patience(self, values: Mapping[str, float]) -> None:
        """Stop where the recipe's patience with the validation loss is at its end."""
        plateau = self.recipe.patience
        if plateau is not None and "val/loss" in values:
            self.patience.tell(plateau, values["val/loss"])
            if self.patience.factor < 1:
                self.stop(f"the validation loss gets no better: {plateau}")

    def _some(self) -> Iterator[Any]:
        return islice(self.data.epoch(0), REFRESHING)


def checked(callbacks: Mapping[str, Callback] | None) -> Mapping[str, Callback]:
    """The user's callbacks, if they can be."""
    for point, function in (callbacks or {}).items():
        if point not in POINTS:
            raise unknown("point of a training", point, POINTS)
        if not callable(function):
            raise UserError(f"the callback for {point!r} must be a function of the training, not {function!r}")
    return callbacks or {}
