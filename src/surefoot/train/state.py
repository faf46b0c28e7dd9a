"""Where a training stands, and how it ended."""

from __future__ import annotations

import math
import platform
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surefoot.record import Checkpoint, Run


@dataclass
class Position:
    """Where a training stands: complete epochs, batches into the next one, steps in all, seconds spent."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0


@contextmanager
def concluded(run: Run, position: Position, device: torch.device) -> Generator[None]:
    """Whatever ends this context, the run's summary says how it ended."""
    status, reason = "finished", ""
    try:
        yield
    except BaseException as error:
        status, reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", str(error)
        raise
    finally:
        if not run.empty:
            run.finish(summary(run, status, reason, position, device))


def summary(run: Run, status: str, reason: str, position: Position, device: torch.device) -> dict[str, Any]:
    """How a run stands: what `summary.json` holds."""

    def facts(checkpoint: Checkpoint | None) -> Mapping[str, Any] | None:
        if checkpoint is None:
            return None
        values = {name: value if math.isfinite(value) else None for name, value in checkpoint.values.items()}
        path = checkpoint.path.relative_to(run.dir).as_posix()
        return {"epoch": checkpoint.epoch, "step": checkpoint.step, **values, "path": path}

    return {
        "status": status,
        "reason": reason,
        "task": run.task["task"],
        "epochs": position.epoch,
        "steps": position.step,
        "seconds": round(position.seconds, 2),
        "best": facts(run.best),
        "last": facts(run.last),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
