"""Whether all that a run holds on disk is as it was written."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from surefoot.errors import UserError
from surefoot.record import checkpoint
from surefoot.record.checkpoint import PARTS, UnfinishedError
from surefoot.record.files import HASH
from surefoot.record.run import Run
from surefoot.record.shelf import NAME


def verify(run: Run) -> Generator[tuple[bool, str]]:
    """Read every file of every checkpoint, and the record: for each whether it is intact, and a line that says so.

    What a crash left unfinished counts as intact: nothing reads it, and the next save removes it.
    """
    try:
        known = run.shelf.index().names
    except UserError as error:
        known = set[str]()
        yield False, str(error)
    folder = run.dir / "checkpoints"
    found = {path.name for path in folder.glob("epoch-*") if NAME.fullmatch(path.name)}
    for name in sorted(known | found):
        yield from verify_checkpoint(folder / name, name in known)
    record = run.dir / "record.sqlite"
    if record.is_file():
        yield verify_record(record)


def verify_checkpoint(path: Path, known: bool) -> Generator[tuple[bool, str]]:
    """A line for each file of a checkpoint."""
    try:
        found = checkpoint.load(path)
    except UserError as error:
        left = isinstance(error, UnfinishedError) and not known
        yield left, f"{error}: a crash left it, the next save removes it" if left else str(error)
        return
    how = f"the {HASH} is right" if "files" in found.manifest else "whole; format 1 has no hashes"
    yield True, f"{path / 'manifest.json'}: {how}"
    for part in PARTS:
        file = path / f"{part}.safetensors"
        try:
            found.verify_part(part)
        except UserError as error:
            yield False, str(error)
        else:
            yield True, f"{file}: {file.stat().st_size:,} bytes, {how}"


def verify_record(path: Path) -> tuple[bool, str]:
    """SQLite's own check of the record."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            answers = [" ".join(answer.split()) for (answer,) in db.execute("PRAGMA integrity_check(1)")]
    except sqlite3.Error as error:
        answers = [str(error)]
    return (
        (True, f"{path}: SQLite finds it sound") if answers == ["ok"] else (False, f"{path} is damaged: {answers[0]}")
    )
