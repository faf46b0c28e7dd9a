"""What the record costs: a step's time on the training thread, the disk, reading; beside a plain table of rows.

    python benchmarks/record.py [--steps 1000000] [--signals 30] [--rounds 15]

Bars: at most 5 microseconds on the training thread for 30 float signals; a million steps of 30 signals in at most
400 MB. The values are doubles that single precision does not hold, the worst case; a float32 loss takes half of that.
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import surefoot as sf
from surefoot.record import Recorder, Run
from surefoot.record.store import Row, Store

BATCH = 500  # steps written together: half a second at a thousand steps a second
ADDS = 2000  # steps a round
PAUSE = 0.001  # seconds between two of them: a fast training's step


class Plain:
    """A row for each value, written by executemany on the calling thread."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS signals "
            "(step INTEGER, name TEXT, value REAL, PRIMARY KEY (name, step)) WITHOUT ROWID"
        )
        self.pending: list[Row] = []

    def add(self, rows: list[Row]) -> None:
        with self.db:
            self.db.executemany("INSERT INTO signals VALUES (?, ?, ?)", rows)

    def add_step(self, step: int, signals: dict[str, float]) -> None:
        self.pending += [(step, name, value) for name, value in signals.items()]
        if step % BATCH == 0:
            self.add(self.pending)
            self.pending = []

    def read(self, name: str) -> list[tuple[int, float]]:
        return self.db.execute("SELECT step, value FROM signals WHERE name = ? ORDER BY step", (name,)).fetchall()

    def close(self) -> None:
        self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()


def rows(steps: int, signals: int) -> Iterator[list[Row]]:
    """Batches of rows."""
    names = [f"layer{k}/update_ratio" for k in range(signals)]
    rng = np.random.default_rng(0)
    for start in range(1, steps + 1, BATCH):
        values = rng.standard_normal((BATCH, signals)).tolist()
        yield [(start + i, name, v) for i, row in enumerate(values) for name, v in zip(names, row, strict=True)]


def on_the_training_thread(folder: Path, signals: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Microseconds an add takes, by contestant: the median and the mean over all steps of all rounds."""
    task = sf.Task(model=nn.Identity, loss=nn.MSELoss(), train=1)
    runs = [Run.create(folder / str(i), task, sf.Recipe()) for i in range(2)]
    plain = Plain(folder / "plain.sqlite")
    scalar = torch.zeros(())
    with Recorder(runs[0]) as floats, Recorder(runs[1]) as tensors:
        contestants: dict[str, tuple[Callable[[int, Any], None], Any]] = {
            "Recorder, floats": (floats.add, 0.1),
            "Recorder, tensors": (tensors.add, scalar),
            "executemany": (plain.add_step, 0.1),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for round in range(rounds):
            for name, (add, value) in contestants.items():
                for step in range(ADDS * round + 1, ADDS * (round + 1) + 1):
                    each = {f"s{k}": value + k for k in range(signals)}
                    began = time.perf_counter()
                    add(step, each)
                    times[name].append(1e6 * (time.perf_counter() - began))
                    time.sleep(PAUSE)
    plain.close()
    return {name: (statistics.median(found), statistics.fmean(found)) for name, found in times.items()}


def on_the_disk(kind: Callable[[Path], Any], path: Path, steps: int, signals: int) -> str:
    """A row of the table: write, close, look, read one signal."""
    writing = 0.0
    store = kind(path)
    for batch in rows(steps, signals):
        began = time.perf_counter()
        store.add(batch)
        writing += time.perf_counter() - began
    store.close()
    size = path.stat().st_size
    store = kind(path)
    began = time.perf_counter()
    found = store.read("layer3/update_ratio")
    reading = time.perf_counter() - began
    assert len(found) >= steps
    store.close()
    values = steps * signals
    each = f"{size / values:.2f} | {1e6 * writing / values:.2f} | {reading:.3f} | {1e6 * reading / steps:.2f}"
    return f"| {'Store' if kind is ours else 'executemany'} | {steps} | {size / 1e6:.0f} | {each} |"


def ours(path: Path) -> Store:
    return Store(path, write=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--signals", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| on the training thread | us a step (median) | us a step (mean) |\n|---|---|---|")
        for who, (median, mean) in on_the_training_thread(folder, args.signals, args.rounds).items():
            print(f"| {who} | {median:.2f} | {mean:.1f} |")
        print("\n| on the disk | steps | MB | bytes a value | us to write a value | s to read a signal | us a value |")
        print("|---|---|---|---|---|---|---|")
        few = args.steps // 10 // BATCH * BATCH or BATCH  # a plain table grows as its rows do
        for kind, steps in ((Plain, few), (ours, few), (ours, args.steps)):
            print(on_the_disk(kind, folder / f"{kind.__name__}{steps}", steps, args.signals), flush=True)


if __name__ == "__main__":
    main()
