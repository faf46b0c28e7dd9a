"""One training on disk."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import nn

from surefoot.errors import UserError, unknown
from surefoot.record import checkpoint, files
from surefoot.record.checkpoint import Checkpoint
from surefoot.record.store import Store
from surefoot.task.load import fingerprint, origin
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task


class Run:
    """A run's directory.

        recipe.toml        how it was trained
        task.json          what was trained: the task's name or path, its file and that file's hash
        record.sqlite      every signal at every step
        tensorboard/       the same for TensorBoard, where that is installed
        checkpoints/       the best and the last, see `surefoot.record.checkpoint`
        summary.json       how it ended

    Args:
        dir: the directory

    Raises:
        UserError: where there is no run
    """

    def __init__(self, dir: str | Path) -> None:
        self.dir = Path(dir)
        self._new = False
        self._made: list[Path] = []  # folders that were made for it, the innermost first
        if not Run.exists(self.dir):
            raise UserError(f"there is no run in {self.dir}")

    @staticmethod
    def exists(dir: Path) -> bool:
        return (dir / "recipe.toml").is_file()

    @classmethod
    def create(cls, dir: Path, task: Task, recipe: Recipe) -> Run:
        """Begin a run in an empty or new directory."""
        refuse_used(dir)
        described = {"task": task.name, "source": str(origin(task) or ""), "sha256": fingerprint(task)}
        texts = {"task.json": json.dumps(described, indent=1), "recipe.toml": recipe.to_toml()}
        made = [folder for folder in (dir, *dir.parents) if not folder.exists()]
        try:
            empty(dir)  # of a run that failed before its first checkpoint
            (dir / "checkpoints").mkdir(parents=True)
            for name, text in texts.items():
                files.write_text(dir / name, text)
        except OSError as error:
            remove(dir, made)
            raise UserError(f"cannot write to {dir}: {error.strerror}: choose another place (--dir, dir=)") from None
        run = cls(dir)
        run._new, run._made = True, made
        return run

    @contextmanager
    def opened(self) -> Generator[None]:
        """While this context lasts, the run is this process's alone. A new run in which nothing was recorded by its end
        is removed."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.dir / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is training in {self.dir}") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.dir}: {error.strerror}") from None
        for left in (self.dir / "checkpoints").glob(".epoch-*.new"):
            rmtree(left)  # what a kill interrupted
        try:
            yield
        finally:
            lock.release()
            if self._new and self.empty:
                remove(self.dir, self._made)

    @property
    def recipe(self) -> Recipe:
        """How it was trained."""
        return Recipe.load(self.dir / "recipe.toml")

    @property
    def task(self) -> dict[str, Any]:
        """What was trained: `task` (name or path), `source` (file) and `sha256` (of the file)."""
        return files.read_json(self.dir / "task.json")

    @property
    def summary(self) -> dict[str, Any]:
        """How it ended; empty while it is under way."""
        path = self.dir / "summary.json"
        return files.read_json(path) if path.is_file() else {}

    @property
    def best(self) -> Checkpoint | None:
        """The checkpoint with the best validation; None before the first."""
        return self._checkpoint("best")

    @property
    def last(self) -> Checkpoint | None:
        """The newest checkpoint; None before the first."""
        return self._checkpoint("last")

    @property
    def empty(self) -> bool:
        """Whether nothing has been recorded yet."""
        if not (self.dir / "record.sqlite").is_file():
            return not self._index()
        with closing(Store(self.dir / "record.sqlite")) as store:
            return not store.names() and not self._index()

    def signal(self, name: str) -> list[tuple[int, float]]:
        """A signal as (step, value) pairs, such as "train/loss"; the first step is 1."""
        with closing(Store(self.dir / "record.sqlite")) as store:
            names = store.names()
            if name not in names:
                raise unknown("signal", name, names)
            return store.read(name)

    def save(
        self, model: nn.Module, state: Any, epoch: int, step: int, values: Mapping[str, float], best: bool
    ) -> None:
        """Save a checkpoint as the last one, and as the best one if it is; forget those that are neither."""
        name = f"epoch-{epoch:04d}-step-{step:08d}"
        folder = self.dir / "checkpoints"
        index = self._index()
        if name not in index.values():  # else this very moment is saved already
            rmtree(folder / name, ignore_errors=True)  # a crash may have left it before the index named it
            checkpoint.save(folder / name, model, state, epoch, step, values)
        index |= {"last": name, **({"best": name} if best else {})}
        files.write_text(folder / "index.json", json.dumps(index, indent=1))
        for old in folder.glob("epoch-*"):
            if old.name not in index.values():
                rmtree(old)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the summary."""
        files.write_text(self.dir / "summary.json", json.dumps(facts, indent=1, allow_nan=False))

    def _index(self) -> dict[str, str]:
        path = self.dir / "checkpoints" / "index.json"
        if path.is_file():
            return files.read_json(path)
        left = sorted(folder.name for folder in path.parent.glob("epoch-*"))  # all whole, but the index is lost
        return {"last": left[-1]} if left else {}

    def _checkpoint(self, which: str) -> Checkpoint | None:
        name = self._index().get(which)
        return checkpoint.load(self.dir / "checkpoints" / name) if name else None

    def __repr__(self) -> str:
        return f"Run({str(self.dir)!r})"


def refuse_used(dir: Path) -> None:
    """Refuse a directory that a run cannot begin in."""
    if Run.exists(dir):
        run = Run(dir)
        if run.last is None and run.summary.get("status") == "failed":
            return  # nothing can go on from there: it may be replaced
        raise UserError(
            f"{dir} already holds a run: resume it (--resume, resume=True), or choose another name (--dir, dir=)"
        )
    if dir.exists() and (not dir.is_dir() or any(dir.iterdir())):
        raise UserError(f"{dir} exists and is no empty directory: choose another name (--dir, dir=)")


def empty(dir: Path) -> None:
    """Remove what is in a directory."""
    for left in dir.glob("*"):
        rmtree(left) if left.is_dir() else left.unlink()


def remove(dir: Path, made: list[Path]) -> None:
    """Empty a run's directory, and remove those that were made for it (the innermost first)."""
    empty(dir)
    for folder in made:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
