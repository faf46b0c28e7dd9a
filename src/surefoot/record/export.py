"""The record of a run for other programs: CSV, Parquet, JSON."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from surefoot.errors import UserError, unknown
from surefoot.record import files
from surefoot.record.run import Run
from surefoot.record.store import Arrays, Event, Store

Column: TypeAlias = tuple[NDArray[np.float64], NDArray[np.bool_]]  # a value for each step, and where there is one

PART = 4096  # rows of a table turned into text together


def export(run: Run, form: str, file: Path | None = None) -> None:
    """Write a run's record for another program; the run may be under way.

    CSV and Parquet hold a table: a row for each step that has a value, a column `step` and one for each signal, empty
    where a signal has no value at a step. JSON holds the signals each with its steps, and the events; JSON lines have
    one for each step and one for each event. What is no finite number stands there as "nan", "inf" or "-inf", for JSON
    knows no such numbers.

    Args:
        run: whose record
        form: "csv", "parquet", "json" or "jsonl"
        file: where to; it is replaced in one move. None prints, which Parquet cannot

    Raises:
        UserError: for an unknown form, a file that cannot be written, or Parquet where no library can write it

    >>> import tempfile, torch, surefoot as sf
    >>> data = (torch.ones(8, 1), torch.ones(8, 1))
    >>> task = sf.Task(model=lambda: torch.nn.Linear(1, 1), loss=torch.nn.MSELoss(), train=data)
    >>> with tempfile.TemporaryDirectory() as dir:
    ...     run = Run.create(Path(dir, "run"), task, sf.Recipe())
    ...     with closing(Store(run.dir / "record.sqlite", write=True)) as store:
    ...         store.add([(1, "loss", 0.5), (2, "loss", 0.25), (2, "accuracy", 1.0)])
    ...     export(run, "csv")
    step,accuracy,loss
    1,,0.5
    2,1.0,0.25
    """
    if form not in FORMS:
        raise unknown("form of export", form, FORMS)
    with closing(Store(run.dir / "record.sqlite")) as store:
        signals = {name: store.arrays(name) for name in store.names()}
        happened = store.events()
    if form == "parquet":
        if file is None:
            raise UserError("Parquet is not for printing: name a file (--parquet FILE)")
        write = parquet_writer()
        with replaced(file) as fresh:
            write(*table(signals), fresh)
    elif file is None:
        TEXTS[form](signals, happened, sys.stdout)
    else:
        with replaced(file) as fresh, fresh.open("w", encoding="utf-8", newline="") as out:
            TEXTS[form](signals, happened, out)


def table(signals: Mapping[str, Arrays]) -> tuple[NDArray[np.int64], dict[str, Column]]:
    """All steps that have a value, and each signal as a column beside them."""
    if "step" in signals:
        raise UserError("a signal is called step, which is the table's first column already: export it as JSON")
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(own for own, _ in signals.values())]))
    columns: dict[str, Column] = {}
    for name, (own, values) in signals.items():
        there = np.searchsorted(steps, own)
        column, present = np.full(len(steps), np.nan), np.zeros(len(steps), np.bool_)
        column[there], present[there] = values, True
        columns[name] = column, present
    return steps, columns


def write_csv(signals: Mapping[str, Arrays], happened: Iterable[Event], out: TextIO) -> None:
    """A table; the events have no place in it."""
    steps, columns = table(signals)
    writer = csv.writer(out, lineterminator="\n")
    quoting = csv.QUOTE_ALL if any("\r" in name for name in columns) else csv.QUOTE_MINIMAL  # which Python forgets
    csv.writer(out, lineterminator="\n", quoting=quoting).writerow(["step", *columns])
    for i in range(0, len(steps), PART):
        part = slice(i, i + PART)
        cells = [np.where(present[part], column[part].astype(object), "") for column, present in columns.values()]
        writer.writerows(zip(steps[part].tolist(), *cells, strict=True))


def write_json(signals: Mapping[str, Arrays], happened: Iterable[Event], out: TextIO) -> None:
    """One object, a line for each signal and each event."""
    out.write('{"signals": {')
    for i, (name, (steps, values)) in enumerate(signals.items()):
        column = json.dumps({"steps": steps.tolist(), "values": finite(values.tolist())}, allow_nan=False)
        out.write(f"{',' if i else ''}\n{json.dumps(name)}: {column}")
    out.write('\n},\n"events": [')
    for i, event in enumerate(happened):
        out.write(f"{',' if i else ''}\n{json.dumps(finite(vars(event)), allow_nan=False)}")
    out.write("\n]}\n")


def write_jsonl(signals: Mapping[str, Arrays], happened: Iterable[Event], out: TextIO) -> None:
    """A line a step with what was recorded there, then a line an event."""
    steps, columns = table(signals)
    for i, step in enumerate(steps.tolist()):
        row = {name: float(column[i]) for name, (column, present) in columns.items() if present[i]}
        out.write(json.dumps({"step": step, **finite(row)}, allow_nan=False) + "\n")
    for event in happened:
        out.write(json.dumps(finite(vars(event)), allow_nan=False) + "\n")


TEXTS = {"csv": write_csv, "json": write_json, "jsonl": write_jsonl}
FORMS = (*TEXTS, "parquet")


def finite(tree: Any) -> Any:
    """A tree with the numbers that JSON does not know as strings.

    >>> finite({"a": [1.5, float("nan"), -math.inf]})
    {'a': [1.5, 'nan', '-inf']}
    """
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else str(tree)
    if isinstance(tree, list | tuple):
        return [finite(each) for each in cast("Iterable[Any]", tree)]
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in cast("Mapping[Any, Any]", tree).items()}
    return tree


def parquet_writer() -> Any:
    """A function (steps, columns, file) that writes Parquet, with the library that is installed."""
    if importlib.util.find_spec("pyarrow") is not None:
        return with_pyarrow
    if importlib.util.find_spec("pandas") is not None and importlib.util.find_spec("fastparquet") is not None:
        return with_pandas
    raise UserError("Parquet needs a library that writes it: pip install pyarrow")


def with_pyarrow(steps: NDArray[np.int64], columns: Mapping[str, Column], file: Path) -> None:
    """A value that is no number (NaN) stays one; where there is no value stands null."""
    arrow: Any = importlib.import_module("pyarrow")
    arrays = {name: arrow.array(column, mask=~present) for name, (column, present) in columns.items()}
    importlib.import_module("pyarrow.parquet").write_table(arrow.table({"step": steps, **arrays}), str(file))


def with_pandas(steps: NDArray[np.int64], columns: Mapping[str, Column], file: Path) -> None:
    """The same; pandas tells NaN and null apart no further than its Parquet library does."""
    pandas: Any = importlib.import_module("pandas")
    frame = pandas.DataFrame({"step": steps, **{name: column for name, (column, _) in columns.items()}})
    frame.to_parquet(str(file), index=False, engine="fastparquet")


@contextmanager
def replaced(file: Path) -> Generator[Path]:
    """A name to write to; it takes the place of the file when all went well, and is removed else."""
    fresh = files.hidden(file)
    try:
        yield fresh
        files.DISK.sync(fresh)
        files.DISK.rename(fresh, file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None
    finally:
        fresh.unlink(missing_ok=True)
