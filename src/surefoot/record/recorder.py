"""Writing the record while a training goes on, in a thread of its own: to the run's file, and to TensorBoard."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any, TypeVar

from surefoot.errors import UserError
from surefoot.record.board import Board
from surefoot.record.reading import Added, Signal, read
from surefoot.record.run import Run
from surefoot.record.store import Event, Row, Store

log = logging.getLogger("surefoot")

T = TypeVar("T")

EVERY = 0.5  # seconds between two writes: a process that is killed loses less than a second of its record
KEPT = 1_000_000  # values kept in memory (about 100 MB) while the file cannot be written
UNREAD = 65_536  # steps kept whose signals nobody has read yet, should the thread hang
RETRY = 8.0  # seconds between two tries to write, at most
SYNC = 10.0  # seconds between two flushes that wait for the disk itself, which takes it several milliseconds
FLUSH = 10.0  # seconds that a flush may take
EXIT = 60.0  # seconds that the end may take


class Recorder:
    """Takes the signals of each step and writes them in batches; a context manager.

    A signal may be a tensor on any device, or a function that works it out. A thread reads what was added, twice a
    second and many steps together, and writes it, so that a step waits neither for a GPU nor for a disk. Where the
    file cannot be written (disk full, locked), training goes on: that is logged once, the newest million values are
    kept in memory, and written when it can be done again; older ones are dropped and counted.

    Args:
        run: the run to write to
        step: the step that the run goes on from; what was recorded after it is cut off

    Raises:
        UserError: where the record cannot be opened

    >>> import tempfile, torch, surefoot as sf
    >>> from pathlib import Path
    >>> task = sf.Task(model=torch.nn.Identity, loss=torch.nn.MSELoss(), train=torch.ones(8, 1))
    >>> with tempfile.TemporaryDirectory() as dir:
    ...     run = Run.create(Path(dir, "run"), task, sf.Recipe())
    ...     with Recorder(run) as recorder:
    ...         recorder.add(1, {"train/loss": torch.tensor(0.5), "train/lr": 0.1})
    ...         recorder.event(1, "checkpoint", best=True)
    ...     print(run.signal("train/loss"))
    [(1, 0.5)]
    """

    def __init__(self, run: Run, step: int = 0) -> None:
        self.store = Store(run.dir / "record.sqlite", write=True)
        try:
            self.store.cut(step)
            self.board = Board(run.dir / "tensorboard", step)
        except BaseException as error:
            self.store.close()
            if isinstance(error, sqlite3.Error):
                raise UserError(f"the record {self.store.path} cannot be written: {error}") from None
            raise
        self.latest: dict[str, float] = {}
        """The newest value of every signal, as far as the thread has come."""
        self._added: deque[Added] = deque(maxlen=UNREAD)
        self._happened: deque[Event] = deque()
        self._waiting: deque[Future[bool]] = deque()  # calls of flush
        self._back: deque[int] = deque()  # calls of rewind
        self._cut: int | None = None  # a step that the file is still to be cut back to
        self._rows: deque[Row] = deque(maxlen=KEPT)  # read, and not yet written
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._unread = self._dropped = self._told = 0  # values lost, as the two threads count them; of them reported
        self._step = step  # the last that was read
        self._trouble: float | None = None  # when the file ceased to be writable
        self._retry = self._synced = 0.0
        self._error: BaseException | None = None  # to be raised by the next call
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._write_on, name="surefoot-recorder", daemon=True)
        self._pid = os.getpid()

    def add(self, step: int, signals: Mapping[str, Signal]) -> None:
        """Take the signals of one step. Nothing is read yet: neither the mapping nor a tensor in it may be changed
        afterwards. Raises what went wrong in reading earlier ones."""
        if self._error is not None:
            self._raise()
        if len(self._added) == UNREAD:
            self._unread += len(signals)  # as many as the step has that goes for it
        self._added.append((step, signals))

    def event(self, step: int, kind: str, **facts: Any) -> None:
        """Record that something happened, after a step; the facts are anything that JSON can hold."""
        try:
            json.dumps(facts)
        except (TypeError, ValueError) as error:
            raise UserError(f"the facts of the event {kind} cannot be recorded: {error}") from None
        self._happened.append(Event(int(step), time.time(), kind, facts))

    def flush(self, timeout: float = FLUSH) -> bool:
        """Wait until all that was added is in the file, though not longer than `timeout` seconds; returns whether it
        is. What is in the file outlives the process; a loss of power may cost its last ten seconds. Raises what went
        wrong in reading what was added."""
        if not self._thread.is_alive():
            raise UserError("flush() works inside the recorder's context: with Recorder(run, step) as recorder")
        done: Future[bool] = Future()
        self._waiting.append(done)
        self._wake.set()
        try:
            written = done.result(timeout)
        except Late:
            written = False
        self._raise()
        return written

    def rewind(self, step: int) -> None:
        """The training goes on from an earlier step: forget what was recorded after it."""
        self.flush()
        self._back.append(step)
        self.flush()

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if os.getpid() != self._pid:  # a forked process has no thread, and the file is not its own
            return
        self._closing = True
        self._wake.set()
        self._thread.join(EXIT)
        if self._thread.is_alive():
            log.warning("the record %s hangs: its end may be missing", self.store.path)
            return
        if self._trouble is not None:
            log.warning(
                "the record %s lacks %d values that could not be written", self.store.path, len(self._rows) + self._lost
            )
        self.store.close()
        self.board.close()
        if kind is None:
            self._raise()
        elif self._error is not None:  # the error under way goes first
            log.warning("a signal could not be recorded: %s", self._error)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def _lost(self) -> int:
        return self._unread + self._dropped - self._told

    # what follows runs in the thread

    def _write_on(self) -> None:
        last = False
        while not last:
            self._wake.wait(EVERY)
            self._wake.clear()
            last = self._closing  # looked at first: what was added before it was set is still taken
            waiting = taken(self._waiting)  # likewise
            written = False
            try:
                rows = read(taken(self._added), self._fail)
                self._keep(rows, taken(self._happened))
                for step in taken(self._back):
                    self._forget(step)
                written = self._written(now=last or bool(waiting))
                self.board.add(rows)
                if waiting:
                    self.board.flush()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the training's next call raises it
                self._fail(error)
            for each in waiting:
                each.set_result(written)

    def _keep(self, rows: list[Row], events: list[Event]) -> None:
        self._dropped += max(len(self._rows) + len(rows) - KEPT, 0) + max(len(self._events) + len(events) - KEPT, 0)
        self._rows.extend(rows)
        self._events.extend(events)
        if rows:
            self._step = rows[-1][0]
            self.latest = self.latest | {name: value for _, name, value in rows}

    def _forget(self, step: int) -> None:
        self._cut = step
        self._rows = deque((row for row in self._rows if row[0] <= step), KEPT)
        self._events = deque((event for event in self._events if event.step <= step), KEPT)
        self.board.rewind(step)

    def _written(self, now: bool) -> bool:
        """Write what is kept; returns whether that succeeded. `now`: even if it failed a moment ago; on to the disk."""
        if self._trouble is not None and not now and time.monotonic() < self._retry:
            return False
        try:
            if self._cut is not None:
                self.store.cut(self._cut)
                self._cut = None
            if self._rows or self._events:
                self.store.add(self._rows, self._events)
                self._rows.clear()
                self._events.clear()
            if self._trouble is not None or self._lost:
                self._recovered()
            if now and (self._closing or time.monotonic() - self._synced > SYNC):
                self.store.sync()
                self._synced = time.monotonic()
        except BaseException as error:
            if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):  # their subclasses: a bad row
                self._rows.clear()  # it would fail each time
                self._events.clear()
                raise
            self._failed(error)
            return False
        return True

    def _failed(self, error: BaseException) -> None:
        if self._trouble is None:
            self._trouble = time.monotonic()
            log.warning(
                "the record %s cannot be written (%s): training goes on, and up to %d values are kept in memory until "
                "it can",
                self.store.path,
                error,
                KEPT,
            )
        # trying costs time where much is kept: the longer it has lasted, the less often
        self._retry = time.monotonic() + min(RETRY, time.monotonic() - self._trouble)

    def _recovered(self) -> None:
        lost = self._lost
        if lost:  # whoever reads the record shall know of the gap
            self.store.event(self._step, "lost", {"values": lost})
        self._trouble, self._told = None, self._told + lost
        what = f"its oldest {lost} values since are lost" if lost else "nothing is lost"
        log.warning("the record %s is written again: %s", self.store.path, what)

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error


def taken(queue: deque[T]) -> list[T]:
    """All that is in a queue, which is empty then; another thread may add to it meanwhile."""
    return [queue.popleft() for _ in range(len(queue))]
