"""Where the time of a training goes: into waiting for data, or into steps."""

from __future__ import annotations

import time


class Pace:
    """Adds up the time between steps: from a step's end to the next forward pass nothing is computed."""

    def __init__(self) -> None:
        self._entered: float | None = None
        self._ended: float | None = None
        self._waits = self._all = 0.0

    def enters(self) -> None:
        """A forward pass begins; only the first of a step counts."""
        if self._entered is None:
            self._entered = time.perf_counter()

    def ends(self, counts: bool) -> None:
        """A step is over; it counts unless something else (a validation) came between."""
        now = time.perf_counter()
        if counts and self._ended is not None and self._entered is not None:
            self._waits += self._entered - self._ended
            self._all += now - self._ended
        self._entered, self._ended = None, now

    def goes_on(self) -> None:
        """What the watch itself did since the step's end is no waiting."""
        self._ended = time.perf_counter()

    def share(self) -> float | None:
        """The share of the time since it was last asked for that was waiting; None where no step was measured."""
        waits, every, self._waits, self._all = self._waits, self._all, 0.0, 0.0
        return waits / every if every else None
