"""One training on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import nn

from surefoot.errors import UserError, unknown
from surefoot.record import checkpoint, files
from surefoot.record.background import Background, Buffer
from surefoot.record.checkpoint import Checkpoint
from surefoot.record.shelf import Shelf
from surefoot.record.store import Event, Store
from surefoot.task.load import fingerprint, origin
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task

log = logging.getLogger("surefoot")


class Run:
    """A run's directory.

        recipe.toml        how it was trained
        task.json          what was trained: the task's name or path, its file and that file's hash
        record.sqlite      every signal at every step
        tensorboard/       the same for TensorBoard, where that is installed
        checkpoints/       the best and the last, see `surefoot.record.shelf`
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
        self.shelf = Shelf(self.dir / "checkpoints")
        self._buffer, self._background = Buffer(), Background()
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
            for folder in made:
                files.sync(folder.parent)
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
        try:
            yield
        finally:
            try:
                self.settle()  # nothing is written without the lock
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
    def findings(self) -> list[Mapping[str, Any]]:
        """What the watch found, root cause first, as `Finding.to_dict` gives it; under way, what it told last."""
        told = self.events("findings")
        return told[-1].facts["findings"] if told else [event.facts for event in self.events("finding")][-3:]

    @property
    def best(self) -> Checkpoint | None:
        """The intact checkpoint with the best validation; None before the first. Waits for a save under way."""
        self._background.join()
        return self.shelf.best()

    @property
    def last(self) -> Checkpoint | None:
        """The newest intact checkpoint; None before the first. Waits for a save under way.

        One that is damaged is passed over with a warning, which names the file (logger "surefoot").
        """
        self._background.join()
        return self.shelf.last()

    @property
    def empty(self) -> bool:
        """Whether nothing has been recorded yet."""
        self._background.join()
        if not (self.dir / "record.sqlite").is_file():
            return not self.shelf.index().names
        with closing(Store(self.dir / "record.sqlite")) as store:
            return not store.names() and not self.shelf.index().names

    @property
    def signals(self) -> list[str]:
        """The names of all that is recorded."""
        with closing(Store(self.dir / "record.sqlite")) as store:
            return store.names()

    def events(self, kind: str | None = None) -> list[Event]:
        """What happened, in that order: all of it, or one kind such as "checkpoint", "resume", "skip", "rollback"."""
        with closing(Store(self.dir / "record.sqlite")) as store:
            return store.events(kind)

    def signal(self, name: str) -> list[tuple[int, float]]:
        """A signal as (step, value) pairs, such as "train/loss"; the first step is 1."""
        with closing(Store(self.dir / "record.sqlite")) as store:
            names = store.names()
            if name not in names:
                raise unknown("signal", name, names)
            return store.read(name)

    def save(
        self,
        weights: nn.Module | Mapping[str, Any],
        state: Any,
        epoch: int,
        step: int,
        values: Mapping[str, float],
        best: bool,
        *,
        merit: float | None = None,
        keep: int = 1,
        wait: bool = True,
        after: Callable[[], object] | None = None,
    ) -> None:
        """Save a checkpoint as the last one, and as the best one if it is; forget those that are neither.

        Args:
            weights: a module, or what its `state_dict()` gives
            state: what else goes on from here: a tree of dicts, lists, tuples, tensors, strings and numbers
            epoch, step: how many epochs are complete, and how many optimizer steps have been taken
            values: the validation's results by name, where there was one
            best: whether they are better than those of every checkpoint before
            merit: how good they are, the larger the better
            keep: how many of the best checkpoints are kept: those of the greatest merit or, where none is given, the
                newest of those that were the best when they were saved
            wait: return when it is on the disk; else as soon as the tensors are copied: a thread writes them. The next
                save waits for it, as `settle` does; either raises the error that it ended with
            after: is called before anything is written, by the same thread: what must be on the disk before

        Raises:
            UserError: for what cannot be written without pickle, naming its place; for a disk that is full or fails

        >>> import tempfile, torch, surefoot as sf
        >>> task = sf.Task(model=lambda: torch.nn.Linear(2, 1), loss=torch.nn.MSELoss(), train=[], name="any")
        >>> with tempfile.TemporaryDirectory() as dir:
        ...     run = sf.Run.create(Path(dir) / "run", task, sf.Recipe())
        ...     run.save({"w": torch.ones(2)}, {"lr": 0.1}, 1, 100, {"val/loss": 0.5}, best=True, wait=False)
        ...     run.settle()
        ...     print(run.best.weights_dict(), run.last.state())
        {'w': tensor([1., 1.])} {'lr': 0.1}
        """
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:  # pyright: ignore
            raise UserError(f"keep must be 1 or more checkpoints, not {keep!r}")
        self.settle()
        shot = checkpoint.snapshot(weights, state, epoch, step, values, best, merit)
        held = shot if wait else self._buffer.hold(shot)

        def write() -> None:
            if after is not None:
                after()
            self.shelf.add(held, keep)

        if wait:
            write()
        else:
            self._background.start(write)

    @property
    def failure(self) -> Checkpoint | None:
        """What the step was computed from at which a loss or a gradient was no number; None where there was none."""
        path = self.dir / "failure"
        return checkpoint.load(path) if path.is_dir() else None

    def save_failure(self, weights: Mapping[str, Any], state: Any, step: int) -> bool:
        """Keep what a step was computed from. False where that is nothing that can be written without pickle."""
        try:
            shot = checkpoint.snapshot(weights, state, 0, step, {})
        except UserError as error:
            log.warning("step %d is not kept: %s", step, error)
            return False
        files.DISK.remove(self.dir / "failure")
        checkpoint.write(self.dir / "failure", shot)
        return True

    def settle(self) -> None:
        """Wait until the checkpoint that `save(wait=False)` began is on the disk; raises its error, once."""
        self._background.settle()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the summary."""
        files.write_text(self.dir / "summary.json", json.dumps(facts, indent=1, allow_nan=False))

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
