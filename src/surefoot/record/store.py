"""The record of a run's signals: one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from surefoot.errors import UserError

Row = tuple[int, str, float]  # step, signal, value

SCHEMA = """
CREATE TABLE IF NOT EXISTS signals (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (name, step))
WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class Store:
    """Signals by step. A value that is no number (NaN) is stored as NULL, which is SQLite's word for it.

    Args:
        path: the file
        write: open it for writing, and make it if it is not there; else only look
    """

    def __init__(self, path: Path, write: bool = False) -> None:
        try:
            self.db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={'rwc' if write else 'ro'}", uri=True)
            if write:
                self.db.execute("PRAGMA journal_mode = WAL")  # can be read while it is written
                self.db.execute("PRAGMA synchronous = NORMAL")
                self.db.executescript(SCHEMA)
            else:
                self.names()
        except sqlite3.Error as error:
            raise UserError(f"the record {path} cannot be {'written' if write else 'read'}: {error}") from None
        self.write = write

    def add(self, rows: Iterable[Row]) -> None:
        with self.db:
            self.db.executemany("INSERT OR REPLACE INTO signals (step, name, value) VALUES (?, ?, ?)", rows)

    def cut(self, step: int) -> None:
        """Forget what was recorded after `step`: it will be recorded again."""
        with self.db:
            self.db.execute("DELETE FROM signals WHERE step > ?", (step,))

    def read(self, name: str) -> list[tuple[int, float]]:
        """A signal's values as (step, value), in the order of the steps."""
        rows = self.db.execute("SELECT step, value FROM signals WHERE name = ? ORDER BY step", (name,))
        return [(step, float("nan") if value is None else value) for step, value in rows]

    def names(self) -> list[str]:
        return [name for (name,) in self.db.execute("SELECT DISTINCT name FROM signals ORDER BY name")]

    def close(self) -> None:
        if self.write:
            with suppress(sqlite3.OperationalError):  # somebody is reading: the log stays beside the file
                self.db.execute("PRAGMA journal_mode = DELETE")  # one file, readable where nothing can be written
        self.db.close()
