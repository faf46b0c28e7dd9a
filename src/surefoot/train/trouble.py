"""What to say when a training cannot go on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from surefoot.errors import UserError, place
from surefoot.record import Run
from surefoot.task.task import Task, described


def usable(device: str | torch.device) -> torch.device:
    """The device, if something can be computed there."""
    try:
        if float(torch.ones(1, device=device)) == 1:
            return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"cannot compute on the device {device}: {str(error).splitlines()[0][:100]}") from None
    raise UserError(f"cannot compute on the device {device}")


@contextmanager
def explained(task: Task, step: int, batch: Any) -> Generator[None]:
    """What the task's own code raises in a step, with the step and the batch that it happened at."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{task.name} failed at step {step}, on the batch {described(batch)}: {what} ({place(error)})"
        ) from error


def non_finite(step: int, signal: str, value: float, run: Run) -> UserError:
    """What to say of a loss, or of a gradient, that is no number."""
    what = "loss" if signal == "train/loss" else "gradient's norm"
    message = f"the {what} is {value} at step {step}{' (the first)' if step == 1 else ''}: look for such values in the "
    message += "data, and for logs, roots and quotients in model and loss that can leave their range"
    if step > 1:
        message += "; or try a lower learning rate, warm-up, or clip_norm"
        last = run.last
        if last is not None:
            message += f". The last checkpoint, of step {last.step}, stands"
    return UserError(message)
