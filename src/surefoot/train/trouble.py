"""What to do, and to say, when a training cannot go on."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from surefoot.errors import UserError, place
from surefoot.task.task import Task, described
from surefoot.train import rng, sharing
from surefoot.train.distributed import lost_contact
from surefoot.train.plan import Pending
from surefoot.train.replay import first_bad
from surefoot.train.training import Training

log = logging.getLogger("surefoot")

SKIPS = 100  # so many steps in a row may be skipped
ROLLBACKS = 3  # so often it may go back to one checkpoint
LOWER = 0.5  # what each rollback multiplies the learning rate by


class Events(Protocol):
    """What takes note of events."""

    def event(self, step: int, kind: str, **facts: Any) -> None: ...

    def rewind(self, step: int) -> None: ...


@dataclass(frozen=True)
class Bad:
    """A step whose loss or gradient is no finite number.

    at: the step
    batches: those that it took, where they are still at hand
    """

    at: Pending
    loss: float
    norm: float
    batches: Sequence[Any] | None

    @property
    def step(self) -> int:
        return self.at.step

    @property
    def reason(self) -> str:
        """Why the optimizer left the step out; "" where it did not."""
        return self.at.report.reason


class RolledBackError(Exception):
    """The training stands at an earlier checkpoint now."""


def react(t: Training, record: Events, bad: Bad) -> None:
    """Do with a bad step as the recipe says; that the loss scale of fp16 is tried out is none.

    Raises:
        UserError: where it is not to go on, or cannot
        RolledBackError: where it goes on from an earlier checkpoint
    """
    record.event(bad.step, "skip" if bad.reason else "nonfinite", loss=bad.loss, grad_norm=bad.norm, reason=bad.reason)
    trying = t.step.scaler is not None and math.isfinite(bad.loss)
    policy = "skip" if trying else t.recipe.nonfinite
    if policy == "rollback":
        roll_back(t, record, bad)
    if policy == "raise":
        raise non_finite(t, bad)
    t.skips += 1
    if t.skips >= SKIPS:
        reason = bad.reason or "the loss is no number"
        raise UserError(f"{SKIPS} steps in a row were left out, the last is step {bad.step}: {reason}")
    log.log(logging.INFO if trying else logging.WARNING, "step %d is left out: %s", bad.step, bad.reason)


def roll_back(t: Training, record: Events, bad: Bad) -> None:
    """Go back to the last checkpoint, with a lower rate."""
    t.run.settle()
    t.processes.wait()
    last = t.run.last
    if last is None:
        raise non_finite(t, bad)
    count = t.ledger.rollbacks + 1
    t.restore(last)
    times = count - t.ledger.rollbacks
    if times > ROLLBACKS:
        raise UserError(
            f"step {bad.step} has no finite loss or gradient, again, after {ROLLBACKS} returns to step {last.step}, "
            f"each with {LOWER:g} of the learning rate: look for such values in the data and in the model"
        )
    t.ledger.rollbacks = count
    t.lower_rate(LOWER**times)
    record.rewind(last.step)
    record.event(last.step, "rollback", of=bad.step, loss=bad.loss, grad_norm=bad.norm, lr_factor=LOWER**times)
    log.warning(
        "step %d has no finite loss or gradient: back to step %d, with %g of its learning rate",
        bad.step, last.step, LOWER**times,
    )  # fmt: skip
    raise RolledBackError


def non_finite(t: Training, bad: Bad) -> UserError:
    """What to say of a loss, or of a gradient, that is no number. What the step is computed from is kept."""
    loss_is_bad = not math.isfinite(bad.loss)
    what, value = ("loss", bad.loss) if loss_is_bad else ("gradient's norm", bad.norm)
    message = f"the {what} is {value} at step {bad.step}{' (the first)' if bad.step == 1 else ''}: "
    batches = bad.batches if bad.batches is not None else fetched_again(t, bad)
    kept = False
    if batches is not None:
        if bad.step > 1:
            weights = sharing.weights(t.model, t.processes)
            kept = t.processes.first and t.run.save_failure(weights, failure(t, batches), bad.step)
        message += f"{where(t, batches)}. L"
    else:
        message += "l"
    message += "ook for such values in the data, and for logs, roots and quotients in model and loss that can leave "
    message += "their range"
    if bad.step > 1:
        message += "; or try a lower learning rate, warm-up, or clip_norm"
        t.run.settle()
        last = t.run.last
        if last is not None:
            message += f". The last checkpoint, of step {last.step}, stands"
        if kept:
            message += f". To compute the step again: surefoot replay {t.run.dir}"
    return UserError(message)


def where(t: Training, batches: Sequence[Any]) -> str:
    """Where the first such number arises, found by computing the step again."""
    try:
        found = first_bad(t.model, t.step.outcome, batches)
    except Exception as error:  # noqa: BLE001 - the task's own code; it matters less than why it was asked
        found = f"(computing the step again failed: {error!r})"
    t.optimizer.zero_grad()
    return f"first in {found}" if found else "computed again, all numbers of the step are finite"


def failure(t: Training, batches: Sequence[Any]) -> dict[str, Any]:
    """What a failed step is computed from, beside the weights."""
    return {"batches": list(batches), "rng": rng.state(t.device)}


def fetched_again(t: Training, bad: Bad) -> Sequence[Any] | None:
    """The batches of an earlier step, from data that can give them again."""
    if not t.data.repeats:
        return None
    return list(islice(t.data.epoch(bad.at.epoch, start=bad.at.batch), t.recipe.accumulate))


class explained:  # noqa: N801 - used as a function; a generator would cost a microsecond more in each step
    """What the task's own code raises in this context, with the step and the batch that it happened at."""

    def __init__(self, task: Task, step: int, batches: Sequence[Any]) -> None:
        self.task, self.step, self.batches = task, step, batches

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            if lost_contact(error):
                raise UserError(f"another process of this training has ended: stopped at step {self.step}") from error
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            where = f"{self.task.name} failed at step {self.step}, on the batch {described(self.batches[-1])}"
            raise UserError(f"{where}: {what} ({place(error)})") from error


def usable(device: str | torch.device | None) -> torch.device:
    """The device, if something can be computed there; where none is named, a GPU if there is one."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if float(torch.ones(1, device=device)) == 1:
            return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"cannot compute on the device {device}: {str(error).splitlines()[0][:100]}") from None
    raise UserError(f"cannot compute on the device {device}")
