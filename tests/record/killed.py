"""Starts fifteen processes that record, kills them at random moments, and says how far each had come.

    python killed.py FOLDER SEED

Prints a line for each: its run's folder, the last step that was flushed, the last step that must not be lost.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from torch import nn

import surefoot as sf
from surefoot.record import Recorder, Run, board, recorder

STEPS = 200_000
TASK = sf.Task(model=nn.Identity, loss=nn.MSELoss(), train=1)


class Child:
    """A process that records; what it does can be seen from outside, and outlives it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.run = Run.create(folder, TASK, sf.Recipe())
        self.added = np.frombuffer(mmap.mmap(-1, 8 * STEPS), np.float64)  # when each step was recorded; shared
        self.flushed = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self.slowest = np.frombuffer(mmap.mmap(-1, 8), np.float64)  # how long the machine let a process wait
        self.pid = os.fork()
        if self.pid == 0:
            self.record()

    def record(self) -> None:
        board.importlib.util.find_spec = lambda name: None  # TensorBoard has no part in this
        logging.disable()
        step, way = 0, ("as usual", "opening and closing", "writing all the time")[self.seed % 3]
        if way == "writing all the time":
            recorder.EVERY = 0.0
        while True:
            with Recorder(self.run, step) as record:
                for _ in range(self.random.randrange(1, 200) if way == "opening and closing" else STEPS):
                    step += 1
                    record.add(step, {f"s{k}": float(step) for k in range(30)})
                    record.event(step, "skip")
                    self.added[step] = began = time.monotonic()
                    if self.random.random() < 0.0005 and record.flush():
                        self.flushed[0] = step
                    else:
                        time.sleep(0.001)
                        self.slowest[0] = max(self.slowest[0], time.monotonic() - began)
            self.flushed[0] = step

    def kill(self) -> str:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        before = time.monotonic() - 1 - 10 * self.slowest[0]
        due = np.flatnonzero((self.added > 0) & (self.added < before))
        return f"{self.run.dir} {self.flushed[0]} {due.max(initial=0)}"


def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    children = [Child(folder / str(i), 100 * seed + i) for i in range(15)]
    began = time.monotonic()
    for moment, child in sorted((chance.uniform(0, 4), i) for i, child in enumerate(children)):
        time.sleep(max(began + moment - time.monotonic(), 0))
        print(children[child].kill())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
