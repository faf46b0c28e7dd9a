"""The record of a run in one SQLite file: signals by step, and what happened.

    names(id, name)                                          the signals
    blocks(signal, first, last, count, steps, numbers)       up to 1024 values of one signal, packed
    events(id, step, time, kind, facts)                      what happened, facts as JSON

A row for each value would take 30 bytes and more; packed, a million steps of thirty signals fit in 260 MB. A signal's
blocks follow each other without overlap, and all but the last are full: new values go to the last block, which is
written anew until it is full, so that a write touches one row a signal and leaves nothing to tidy up later.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from surefoot.errors import UserError

Row: TypeAlias = tuple[int, str, float]  # step, signal, value
Arrays: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]  # steps, rising, and their values

VERSION = 2  # of the tables; 1 had a row for each value
BLOCK = 1024  # values in a full block: 8 KB, or 4 KB where single precision holds them exactly

SCHEMA = (
    "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE blocks (signal INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, "
    "count INTEGER NOT NULL, steps BLOB, numbers BLOB NOT NULL, UNIQUE (signal, first))",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL, "
    "facts TEXT NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    step: after which optimizer step
    time: when, in seconds since 1970
    kind: what: "checkpoint", "resume", "skip", "rollback", "stop", "environment" ...
    facts: the particulars: what JSON can hold
    """

    step: int
    time: float
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Store:
    """The record's file. Each `add` and each `cut` is done wholly or not at all, whenever the process is killed, and
    the file can be read while it is written.

    Args:
        path: the file
        write: open it for writing, make it if it is not there, and bring it to this version if it is older; else only
            look, which changes nothing

    Raises:
        UserError: for a file that cannot be opened, or is no record, or a newer surefoot's. The methods that write
            raise `sqlite3.Error` where the disk does not take it, and leave the file as it was

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as dir:
    ...     store = Store(Path(dir, "record.sqlite"), write=True)
    ...     store.add([(1, "loss", 0.5), (2, "loss", 0.25), (3, "loss", 0.125)])
    ...     store.event(2, "checkpoint", {"best": True})
    ...     store.cut(2)
    ...     print(store.names(), store.read("loss"), [event.kind for event in store.events()])
    ...     store.close()
    ['loss'] [(1, 0.5), (2, 0.25)] ['checkpoint']
    """

    def __init__(self, path: Path, write: bool = False) -> None:
        self.path, self.write = path, write
        self._tails: dict[str, tuple[int, Arrays]] = {}  # of signals written to: the id and the last block
        try:
            uri = path.resolve().as_uri()
            if not write and Path(f"{path}-journal").exists():  # a process was killed as it opened or closed the file
                with closing(_connect(f"{uri}?mode=rw")) as db:
                    db.execute("PRAGMA user_version").fetchall()  # SQLite takes back what it had begun
            self.db = _connect(f"{uri}?mode={'rwc' if write else 'ro'}")
            try:
                self._open()
            except BaseException:
                self.db.close()
                raise
        except sqlite3.Error as error:
            raise UserError(f"the record {path} cannot be {'written' if write else 'read'}: {error}") from None

    def _open(self) -> None:
        version = self._version()
        if version > VERSION or (version == 0 and self._one("SELECT count(*) FROM sqlite_master")):
            what = (
                f"its version is {version}, not {VERSION}: update surefoot" if version else "it is no record of a run"
            )
            raise UserError(f"the record {self.path} cannot be used: {what}")
        if self.write:
            self.db.execute("PRAGMA journal_mode = WAL")  # can be read while it is written
            self.db.execute("PRAGMA synchronous = NORMAL")
        elif version < VERSION:  # look at a copy in memory
            file, self.db = self.db, _connect(":memory:")
            with closing(file):
                file.backup(self.db)
        if version < VERSION:
            with self._transaction():  # another process may have been faster
                self._migrate(self._version())

    def _migrate(self, version: int) -> None:
        """Make the tables; take over what version 1 holds."""
        if version == VERSION:
            return
        for statement in SCHEMA:
            self.db.execute(statement)
        if version == 1:
            for (name,) in self.db.execute("SELECT DISTINCT name FROM signals").fetchall():
                column = self.db.execute("SELECT step, value FROM signals WHERE name = ?", (name,))
                self._append(name, {step: float("nan") if value is None else value for step, value in column})
            self.db.execute("DROP TABLE signals")

    def add(self, rows: Iterable[Row], events: Iterable[Event] = ()) -> None:
        """Add values and events, in any order; a value takes the place of one that its signal has at that step."""
        columns: dict[str, dict[int, float]] = {}
        for step, name, value in rows:
            columns.setdefault(name, {})[step] = value
        happened = [(each.step, each.time, each.kind, json.dumps(dict(each.facts))) for each in events]
        with self._transaction():
            for name, column in columns.items():
                self._append(name, column)
            self.db.executemany("INSERT INTO events (step, time, kind, facts) VALUES (?, ?, ?, ?)", happened)

    def event(self, step: int, kind: str, facts: Mapping[str, Any]) -> None:
        """Add an event that happens now."""
        self.add((), [Event(step, time.time(), kind, facts)])

    def cut(self, step: int) -> None:
        """Forget what was recorded after `step`: it will be recorded again."""
        with self._transaction():
            self._tails.clear()
            self.db.execute("DELETE FROM blocks WHERE first > ?", (step,))
            for (signal,) in self.db.execute("SELECT signal FROM blocks WHERE last > ?", (step,)).fetchall():
                steps, values = self._blocks(signal, step)
                self._replace(signal, steps[0], (steps[steps <= step], values[steps <= step]))
            self.db.execute("DELETE FROM events WHERE step > ?", (step,))

    def read(self, name: str) -> list[tuple[int, float]]:
        """A signal's values as (step, value), in the order of the steps."""
        steps, values = self.arrays(name)
        return list(zip(steps.tolist(), values.tolist(), strict=True))

    def arrays(self, name: str) -> Arrays:
        """A signal's steps and values as two arrays; empty ones for a signal that is not there."""
        found = self.db.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
        return _joined([]) if found is None else self._blocks(found[0])

    def names(self) -> list[str]:
        """The signals that have values, sorted."""
        query = "SELECT name FROM names WHERE EXISTS (SELECT 1 FROM blocks WHERE signal = id) ORDER BY name"
        return [name for (name,) in self.db.execute(query)]

    def events(self, kind: str | None = None) -> list[Event]:
        """What happened, in that order; all of it, or one kind."""
        query = "SELECT step, time, kind, facts FROM events WHERE kind = coalesce(?, kind) ORDER BY id"
        return [Event(step, at, kind, json.loads(facts)) for step, at, kind, facts in self.db.execute(query, (kind,))]

    def sync(self) -> None:
        """Wait until what was added is on the disk: a commit alone outlives the process, not a loss of power."""
        self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        if self.write:
            with suppress(sqlite3.Error):  # somebody is reading, or the disk is full: the log stays beside the file
                self.db.execute("PRAGMA journal_mode = DELETE")  # one file, readable where nothing can be written
        self.db.close()

    def _append(self, name: str, new: Mapping[int, float]) -> None:
        """Unite new values with the blocks from their first step on: as a rule, with the last one."""
        column = _sorted(new)
        if name not in self._tails:
            self.db.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
            signal = self._one("SELECT id FROM names WHERE name = ?", name)
            newest = self._one("SELECT max(first) FROM blocks WHERE signal = ?", signal)
            self._tails[name] = signal, _joined([]) if newest is None else self._blocks(signal, newest)
        signal, tail = self._tails[name]
        start = min(int(part[0]) for part in (tail[0], column[0]) if len(part))
        if len(tail[0]) and column[0][0] <= tail[0][-1]:  # late ones
            old = self._blocks(signal, start)
            start = min(start, int(old[0][0]))
            column = _sorted(dict(zip(old[0].tolist(), old[1].tolist(), strict=True)) | dict(new))
        else:
            column = _joined([tail, column])
        self._tails[name] = signal, self._replace(signal, start, column)

    def _blocks(self, signal: int, since: int = -(2**63)) -> Arrays:
        """The values of the blocks that reach to `since` or beyond."""
        query = "SELECT first, count, steps, numbers FROM blocks WHERE signal = ? AND last >= ? ORDER BY first"
        return _joined([_unpacked(*row) for row in self.db.execute(query, (signal, since))])

    def _replace(self, signal: int, start: int, column: Arrays) -> Arrays:
        """Write a signal's values from the block that begins at `start` on; returns the last block."""
        steps, values = column
        cuts = range(0, len(steps), BLOCK)
        packed = [(signal, *_packed(steps[i : i + BLOCK], values[i : i + BLOCK])) for i in cuts]
        self.db.execute("DELETE FROM blocks WHERE signal = ? AND first >= ?", (signal, int(start)))
        self.db.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", packed)
        last = cuts[-1] if len(cuts) else 0
        return steps[last:], values[last:]

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            self._tails.clear()  # they are ahead of the file
            if self.db.in_transaction:  # a full disk may have ended it
                self.db.execute("ROLLBACK")
            raise

    def _version(self) -> int:
        return self._one("PRAGMA user_version")

    def _one(self, query: str, *values: Any) -> Any:
        return self.db.execute(query, values).fetchone()[0]


def _connect(uri: str) -> sqlite3.Connection:
    # transactions are begun by hand; a lock is waited for shortly, for the recorder tries again by itself
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1.0, check_same_thread=False)


def _sorted(column: Mapping[int, float]) -> Arrays:
    steps = np.fromiter(column, np.int64, len(column))
    values = np.fromiter(column.values(), np.float64, len(column))
    if (steps[1:] > steps[:-1]).all():
        return steps, values
    order = np.argsort(steps)
    return steps[order], values[order]


def _joined(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    empty: Arrays = np.empty(0, np.int64), np.empty(0)
    return np.concatenate([empty[0], *(p[0] for p in parts)]), np.concatenate([empty[1], *(p[1] for p in parts)])


def _packed(steps: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[int, int, int, bytes | None, bytes]:
    """A block as (first, last, count, steps, numbers).

    steps: their differences, as whole numbers of the least width that holds them; None where all are 1
    numbers: in single precision where that is exact, as a loss of float32 is; else in double
    """
    differences = np.diff(steps)
    most = int(differences.max(initial=1))
    packed = differences.astype(f"<u{np.min_scalar_type(most).itemsize}").tobytes() if most > 1 else None
    with np.errstate(all="ignore"):  # too large for single precision
        single = values.astype("<f4")
    exact = np.array_equal(single.astype("<f8"), values, equal_nan=True)
    numbers = single if exact else values.astype("<f8")
    return int(steps[0]), int(steps[-1]), len(steps), packed, numbers.tobytes()


def _unpacked(first: int, count: int, steps: bytes | None, numbers: bytes) -> Arrays:
    if steps is None:
        numbered = np.arange(first, first + count, dtype=np.int64)
    else:
        differences = np.frombuffer(steps, f"<u{len(steps) // (count - 1)}").astype(np.int64)
        numbered = first + np.concatenate([np.zeros(1, np.int64), np.cumsum(differences)])
    return numbered, np.frombuffer(numbers, f"<f{len(numbers) // count}").astype(np.float64)
