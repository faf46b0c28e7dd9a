"""The record for TensorBoard, where that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.record.store import Row

log = logging.getLogger("surefoot")


MOST = 20  # values of a signal written together: TensorBoard shows a thousand in all, and a message takes it 100 us


class Board:
    """TensorBoard's copy of the record; without TensorBoard, nothing. Where the disk fails, it ends with one warning.

    A training of more than a hundred steps a second is not copied whole, for that would slow it down.

    Args:
        dir: its folder
        step: what was written there after this step is void

    Raises:
        UserError: where the folder cannot be written
    """

    def __init__(self, dir: Path, step: int) -> None:
        self.dir = dir
        self.writer: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            log.warning("no TensorBoard log: it needs pip install 'surefoot[tensorboard]'")
            return
        self.summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        try:
            self._open(step)
        except OSError as error:
            raise UserError(f"cannot write to {dir}: {error.strerror}") from None

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows, or of many only some.

        One message a step: add_scalar, with one for each value, takes many times as long.
        """

        def write() -> None:
            for step, signals in groupby(thinned(list(rows)), key=lambda row: row[0]):
                values = [self.summary.Value(tag=name, simple_value=value) for _, name, value in signals]
                self.writer.file_writer.add_summary(self.summary(value=values), step)

        self._try(write)

    def flush(self) -> None:
        """Wait until what was written is in the files."""
        self._try(lambda: self.writer.flush())

    def close(self) -> None:
        self._try(lambda: self.writer.close())

    def rewind(self, step: int) -> None:
        """What was written after a step is void."""

        def write() -> None:
            self.writer.close()
            self._open(step)

        self._try(write)

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.dir), purge_step=step + 1 if step else None, flush_secs=10)

    def _try(self, write: Callable[[], None]) -> None:
        if self.writer is None:
            return
        try:
            write()
        except OSError as error:
            self.writer = None  # the record itself has it all
            log.warning("the TensorBoard log ends here: %s", error)


def thinned(rows: list[Row], most: int = MOST) -> list[Row]:
    """Of each signal at most so many values, evenly spaced, and always the last.

    >>> thinned([(i, "loss", 0.0) for i in range(1, 9)] + [(8, "val/loss", 0.0)], most=3)
    [(2, 'loss', 0.0), (5, 'loss', 0.0), (8, 'loss', 0.0), (8, 'val/loss', 0.0)]
    """
    counts = Counter(name for _, name, _ in rows)
    if max(counts.values(), default=0) <= most:
        return rows
    kept: list[Row] = []
    left = counts.copy()
    for row in rows:
        left[row[1]] -= 1
        if left[row[1]] % math.ceil(counts[row[1]] / most) == 0:
            kept.append(row)
    return kept
