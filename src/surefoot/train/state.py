"""What a training ran on, and how it ended."""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from surefoot.errors import UserError
from surefoot.record import Checkpoint
from surefoot.train.training import Training

log = logging.getLogger("surefoot")


def environment(device: torch.device) -> dict[str, Any]:
    """What a training runs on: versions, device, threads, the state of the user's git repository."""
    found = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found | git()


def git() -> dict[str, Any]:
    """The commit that is checked out where this process runs, and whether files differ from it; nothing elsewhere."""
    told: list[str] = []
    for question in ("rev-parse HEAD", "status --porcelain --untracked-files=no"):
        try:
            done = subprocess.run(
                ["git", *question.split()], capture_output=True, text=True, timeout=5, cwd=os.getcwd(), check=True
            )
        except (OSError, subprocess.SubprocessError):  # no git, no repository
            return {}
        told.append(done.stdout.strip())
    return {"commit": told[0], "changed": bool(told[1])}


@contextmanager
def concluded(t: Training) -> Generator[None]:
    """Whatever ends this context, what is being saved is saved, and the run's summary says how it ended."""
    status, reason = "finished", ""
    try:
        yield
        t.run.settle()
    except BaseException as error:
        status, reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", str(error)
        try:
            t.run.settle()
        except UserError as lost:
            if lost is not error:
                log.error("%s", lost)
        raise
    finally:
        if t.processes.first and not t.run.empty:
            t.run.finish(summary(t, status, reason))


def summary(t: Training, status: str, reason: str) -> dict[str, Any]:
    """How a run stands: what `summary.json` holds."""

    def facts(checkpoint: Checkpoint | None) -> Mapping[str, Any] | None:
        if checkpoint is None:
            return None
        values = {name: value if math.isfinite(value) else None for name, value in checkpoint.values.items()}
        path = checkpoint.path.relative_to(t.run.dir).as_posix()
        return {"epoch": checkpoint.epoch, "step": checkpoint.step, **values, "path": path}

    return {
        "status": status,
        "reason": reason or t.reason,
        "task": t.run.task["task"],
        "epochs": t.position.epoch,
        "steps": t.position.step,
        "seconds": round(t.position.seconds, 2),
        "best": facts(t.run.best),
        "last": facts(t.run.last),
        "ledger": t.facts(),
        "findings": t.findings,
        **environment(t.device),
    }
