"""What is done between the steps: reading and recording numbers, evaluating, saving, leaving."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from surefoot.engine.report import Report
from surefoot.record import Recorder
from surefoot.train.progress import Progress
from surefoot.train.state import environment
from surefoot.train.stop import Interrupted, StopRequest
from surefoot.train.training import Training
from surefoot.train.trouble import Bad, react

LOOK_EVERY = 0.2  # seconds between two looks at the signals; each look makes the step wait for the device


class Unrecorded:
    """What records in the processes that are not the first: nothing."""

    def add(self, step: int, signals: Any) -> None: ...

    def event(self, step: int, kind: str, **facts: Any) -> None: ...

    def flush(self) -> None: ...

    def rewind(self, step: int) -> None: ...

    def __enter__(self) -> Unrecorded:
        return self

    def __exit__(self, *_: object) -> None: ...


Recording = Recorder | Unrecorded


class Between:
    """What is done between the steps of a training, with what it is recorded, shown and stopped by."""

    def __init__(
        self,
        t: Training,
        record: Recording,
        progress: Progress,
        stop: StopRequest,
        collect: Callable[[float], None],
    ) -> None:
        self.t, self.record, self.progress, self.stop, self.collect = t, record, progress, stop, collect
        self.looked = 0.0

    def begin(self) -> None:
        """Note what it runs on, and do what an interruption has left undone."""
        t, at = self.t, self.t.position.step
        self.record.event(at, "resume" if at else "start", **environment(t.device), world=t.processes.world)
        t.call("start")
        every = t.recipe.evaluate_every
        if every is not None and at and at % every == 0 and t.evaluated_at != at:
            self.evaluate()

    def look_if_due(self, report: Report, batches: list[Any]) -> None:
        """Look some times a second, and at once where the step is known to have been left out."""
        now = time.monotonic()
        if now - self.looked > LOOK_EVERY or (not report.late and report.skipped):
            self.look(batches)
            self.looked = now
            self.collect(now)

    def look(self, batches: list[Any] | None = None) -> None:
        """Read the numbers of the steps since the last look, which waits for the device; and record them.

        Args:
            batches: those of the last step

        Raises:
            UserError: where one is no finite number, and the recipe does not say otherwise
            RolledBack: where it went back to a checkpoint
        """
        t = self.t
        pending, t.pending = t.pending, []
        if not pending:
            return
        losses: list[float] = torch.stack([each.loss for each in pending]).double().tolist()  # pyright: ignore
        for each, loss in zip(pending, losses, strict=True):
            report, norm = each.report, each.report.grad_norm
            sound = math.isfinite(loss) and math.isfinite(norm) and not report.skipped
            if sound or each.step > 1 or t.recipe.nonfinite != "raise":  # at the very first step the run is discarded
                self.record.add(each.step, {"train/loss": loss, "train/lr": each.lr, "train/grad_norm": norm})
            if sound:
                t.losses[0] += loss
                t.losses[1] += 1
                t.ledger.steps += 1
                t.skips = 0
            else:
                t.ledger.steps += not report.skipped
                t.ledger.skipped += report.skipped
                react(t, self.record, Bad(each, loss, norm, batches if each is pending[-1] else None))
        last = pending[-1]
        if t.step.watch is not None:
            for step, measured in t.step.watch.measured(after=pending[0].step - 1):
                self.record.add(step, measured)
        t.latest = {"train/loss": losses[-1], "train/lr": last.lr, "train/grad_norm": last.report.grad_norm}
        self.progress.step(t.position.step, t.latest)

    def evaluate(self, epoch_ends: bool = False) -> None:
        """Evaluate, and write a checkpoint; or nothing, where stopping is asked for meanwhile."""
        t = self.t
        self.look()
        t.laps.lap("step")
        raw = t.validated(self.stop) if t.recipe.ema is not None else {}
        with t.usable() as aside:
            values = {**t.validated(self.stop), **{name.replace("val/", "val/raw/"): raw[name] for name in raw}}
            t.laps.lap("evaluate")
            if self.stop.signum is not None and t.processes.world == 1:
                return
            t.values = values
            self.record.add(t.position.step, values)
            if t.step.watch is not None and values:
                t.step.watch.validated(values.get("val/loss"), values.get(t.task.score), _higher(t))
            best = bool(values) and t.task.better(values, t.best)
            if best:
                t.best = values
            if epoch_ends:
                self.end_epoch()
            elif t.every_step and t.schedule.told and "val/loss" in values:
                t.schedule.step(metric=values["val/loss"])
            t.have_patience(values)
            mean = {"train/loss": t.losses[0] / max(t.losses[1], 1)}
            if epoch_ends:
                t.losses = [0.0, 0]
            t.call("evaluation")
            t.evaluated_at = t.position.step
            self._write(values, aside, best)
        self.progress.epoch(t.position.epoch, {**t.latest, **mean, **values}, best)

    def end_epoch(self) -> None:
        """The next epoch is to begin."""
        t = self.t
        told = t.values.get("val/loss") if t.schedule.told else None
        if not t.every_step or told is not None:  # without a step in between the time stays as it is
            t.schedule.step(metric=told)
        t.position.epoch, t.position.batch = t.position.epoch + 1, 0

    def leave(self) -> Interrupted:
        """Save because of a signal; returns what to raise."""
        t = self.t
        signum = self.stop.signum or signal.SIGTERM  # another process may have got it
        if t.position.step == 0:
            return Interrupted(signum, "stopped before the first step")
        self.record.event(t.position.step, "stop", reason=signal.Signals(signum).name)
        if t.evaluated_at != t.position.step:
            with t.usable() as aside:
                self._write({}, aside, best=False)
        t.run.settle()
        where = f"epoch {t.position.epoch + 1}, step {t.position.step}"
        return Interrupted(signum, f"stopped in {where}; all is saved, --resume (resume=True) goes on from here")

    def end(self) -> None:
        """All is done."""
        t = self.t
        if t.epoch_is_over and t.position.batch:
            self.end_epoch()
        if t.reason:
            self.record.event(t.position.step, "stop", reason=t.reason)
        t.call("end")

    def _write(self, values: dict[str, float], aside: dict[str, Any], best: bool) -> None:
        t = self.t
        self.record.event(t.position.step, "ledger", **t.facts())
        self.record.event(t.position.step, "checkpoint", best=best, **values)
        t.write(values, aside, best, self.record.flush)
        t.laps.lap("save")
        t.call("checkpoint")


def _higher(t: Training) -> bool:
    return t.task.metric is not None and getattr(t.task.metric, "higher_is_better", True)
