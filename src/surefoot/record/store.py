"""The record of a run's signals: one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

Row = tuple[int, str, float]  # step, signal, value

SCHEMA = """
CREATE TABLE IF NOT EXISTS signals (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (name, step))
WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class Store:
    """Signals by step. A value that is no number (NaN) is stored as NULL, which is SQLite's word for it."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.execute("PRAGMA journal_mode = WAL")  # can be read while it is written
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.executescript(SCHEMA)

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
        self.db.close()
