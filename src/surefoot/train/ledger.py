"""What really happened in a training: where the time went, what was stepped, what was seen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

PHASES = ("data", "forward", "backward", "step", "evaluate", "save")


@dataclass
class Laps:
    """Seconds by phase. Each `lap` gives what passed since the one before to a phase. On a GPU that is the time of this
    process: what it waits for there falls to the phase that waits.

    >>> laps = Laps()
    >>> laps.lap("data"); laps.lap("forward")
    >>> sum(laps.shares().values())
    1.0
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    last: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now

    def shares(self) -> dict[str, float]:
        """Each phase's share of all the time."""
        total = sum(self.seconds.values())
        return {phase: seconds / total if total else 0.0 for phase, seconds in self.seconds.items()}


@dataclass
class Ledger:
    """What was done, counted.

    steps: optimizer steps that were taken; skipped: those that were not
    samples: items that this process has trained on
    rollbacks: how often it went back to a checkpoint
    """

    steps: int = 0
    skipped: int = 0
    samples: int = 0
    rollbacks: int = 0

    def facts(self, laps: Laps) -> dict[str, Any]:
        """As the record keeps it."""
        return {**vars(self), "time": {phase: round(share, 4) for phase, share in laps.shares().items()}}
