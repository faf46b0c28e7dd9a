"""Stopping on request."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """Training stopped because a signal asked for it; everything up to here is saved.

    signum: the signal
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """While this context lasts, Ctrl-C and SIGTERM only ask: the loop looks at `signum` when a step is complete, so no
    weight is ever half updated. A second signal stops at once.

    Python lets only the main thread set handlers; elsewhere nothing is asked.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) != signal.SIG_IGN:  # nohup stays nohup
                    self.previous[signum] = signal.signal(signum, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def guard(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, ending early once stopping is asked for; none is fetched and then dropped."""
        if self.signum is not None:
            return
        for batch in batches:
            yield batch
            if self.signum is not None:
                return

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise Interrupted(signum, "stopped at once, without saving")
        self.signum = signum
