"""Writing signals while a training goes on: to the run's record, and to TensorBoard."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from surefoot.record.run import Run
from surefoot.record.store import Row, Store

log = logging.getLogger("surefoot")

Signal: TypeAlias = "float | Tensor | Callable[[], float]"


class Recorder:
    """Takes the signals of each step and writes them in batches; a context manager.

    A signal may be a tensor on any device, or a function that works it out. It is read when the batch is written, so
    that a step never waits for a GPU.

    Args:
        run: the run to write to
        step: the step that the run goes on from; what was recorded after it is cut off
    """

    def __init__(self, run: Run, step: int = 0) -> None:
        self.store = Store(run.dir / "record.sqlite", write=True)
        self.store.cut(step)
        self.pending: list[tuple[int, Mapping[str, Signal]]] = []
        self.writer = None
        if importlib.util.find_spec("tensorboard") is None:
            log.warning("no TensorBoard log: it needs pip install 'surefoot[tensorboard]'")
        else:
            from torch.utils.tensorboard import SummaryWriter

            self.writer: Any = SummaryWriter(str(run.dir / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, signals: Mapping[str, Signal]) -> None:
        """Take the signals of one step; nothing is read yet."""
        self.pending.append((step, signals))

    def take(self) -> list[Row]:
        """What was added since the last `take`, as numbers; waits for the device."""
        flat = [(step, name, value) for step, signals in self.pending for name, value in signals.items()]
        tensors = [value for _, _, value in flat if isinstance(value, Tensor)]
        together = torch.stack([t.double().reshape(()) for t in tensors]) if tensors else torch.empty(0)
        numbers = iter(cast("list[float]", together.tolist()))
        self.pending.clear()
        return [(step, name, _number(value, numbers)) for step, name, value in flat]

    def write(self, rows: list[Row]) -> None:
        """Write what `take` gave."""
        self.store.add(rows)
        if self.writer is not None:
            for step, name, value in rows:
                self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Wait until what was written is in the files."""
        if self.writer is not None:
            self.writer.flush()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.write(self.take())  # an error in the loop may have left something
        self.store.close()
        if self.writer is not None:
            self.writer.close()


def _number(value: Signal, tensors: Iterator[float]) -> float:
    if isinstance(value, Tensor):
        return next(tensors)
    return value() if callable(value) else value
