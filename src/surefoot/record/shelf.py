"""The checkpoints of a run: which is the last, which are the best, and what to go on from where one is damaged."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.errors import UserError
from surefoot.record import checkpoint, files
from surefoot.record.checkpoint import Checkpoint, DamagedError, Snapshot, UnfinishedError

log = logging.getLogger("surefoot")

NAME = re.compile(r"epoch-(\d+)-step-(\d+)(?:-(\d+))?", re.ASCII)  # the third number: saved again at the same step


@dataclass
class Index:
    """last: the newest checkpoint's folder; best: those of the best, the very best first."""

    last: str | None
    best: list[str]

    @property
    def names(self) -> set[str]:
        return {*self.best, *([self.last] if self.last else [])}


class Shelf:
    """The folder `checkpoints` of a run.

        index.json                     {"last": folder, "best": [folder, ...]}
        epoch-0020-step-00000460/      see `surefoot.record.checkpoint`

    Whatever the index does not name is left over from a crash; the next save removes it. Where the index is missing,
    it follows from what the checkpoints say of themselves.
    """

    def __init__(self, folder: Path, disk: files.Disk = files.DISK) -> None:
        self.folder, self.disk = folder, disk
        self._sound: dict[str, Any] = {}  # checkpoint: what its files looked like when their hashes were right
        self._told: set[str] = set()

    def index(self) -> Index:
        """What the index says."""
        path = checkpoint.plain(self.folder / "index.json")
        if not path.is_file():
            whole = [name for name in self._on_disk() if not self._unfinished(name)]
            return Index(whole[0] if whole else None, self._ranked([name for name in whole if self._was_best(name)]))
        said = files.read_json(path)
        last, best = said.get("last"), said.get("best", [])
        names: list[Any] = [last, *(best if isinstance(best, list) else [best])]  # format 1 had one
        if not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
            raise UserError(
                f"{path} is damaged: it names what is no checkpoint; remove it, and it follows from the checkpoints"
            )
        return Index(names[0], names[1:])

    def last(self) -> Checkpoint | None:
        """The newest checkpoint that is intact."""
        index = self.index()
        found, broken = self._first_intact([index.last] if index.last else [], self._on_disk())
        if found is None and broken is not None:
            raise UserError(f"{broken}, and there is no other checkpoint to go on from")
        return found

    def best(self) -> Checkpoint | None:
        """The best checkpoint that is intact; where none of the best is, the newest that was validated."""
        index = self.index()
        if not index.best:
            return None
        found, broken = self._first_intact(index.best, self._on_disk(), validated=True)
        if found is None and broken is not None and str(broken) not in self._told:
            self._told.add(str(broken))
            log.warning("%s, and there is no other validated checkpoint: there is no best one", broken)
        return found

    def add(self, shot: Snapshot, keep: int) -> None:
        """Write a checkpoint, which becomes the last; then forget all that are neither the last nor of the best."""
        before = self.index()
        name = self._free(shot.name)
        merit = shot.manifest.get("merit")
        best = [name, *before.best] if shot.manifest["best"] or merit is not None else before.best
        index = Index(name, self._ranked(best, {name: merit})[:keep])
        try:
            self.sweep()
            checkpoint.write(self.folder / name, shot, self.disk)
            self._sound[name] = stamp(checkpoint.load(self.folder / name))
            said = {"last": index.last, "best": index.best}
            self.disk.replace(self.folder / "index.json", json.dumps(said, indent=1).encode())
            for left in self._on_disk():
                if left not in index.names:
                    self._drop(left)
        except OSError as error:
            raise UserError(
                f"cannot save to {self.folder}: {error.strerror or error}: what was saved before stands"
            ) from error

    def _ranked(self, names: list[str], known: Mapping[str, float | None] | None = None) -> list[str]:
        """Checkpoints by merit, the best first, of equals the older; as they are where one has none."""
        merits = dict(known or {})
        for name in names:
            if name not in merits:
                try:
                    merits[name] = checkpoint.load(self.folder / name).merit
                except DamagedError:
                    merits[name] = -math.inf
        if any(merit is None for merit in merits.values()):
            return names
        oldest_first = list(reversed(names))
        return sorted(oldest_first, key=lambda name: -(merits[name] or 0.0))

    def sweep(self) -> None:
        """Remove what a crash left half written or half removed."""
        index = self.index()
        for name in self._on_disk():
            if name not in index.names and self._unfinished(name):
                self._drop(name)
        for left in (*self.folder.glob(".epoch-*"), *self.folder.glob(".index.json.*")):
            self.disk.remove(left)

    def _drop(self, name: str) -> None:
        """Remove a checkpoint: first its name, so that it is never seen in part."""
        away = self.folder / f".{name}.old"
        self.disk.rename(self.folder / name, away)
        self.disk.remove(away)
        self._sound.pop(name, None)

    def _free(self, name: str) -> str:
        """A name that no folder has yet: what is there is never written over."""
        taken, free, n = set(self._on_disk()), name, 1
        while free in taken:
            n += 1
            free = f"{name}-{n}"
        return free

    def _on_disk(self) -> list[str]:
        """The names of all folders that may be checkpoints, the newest first."""
        found = [(match, path.name) for path in self.folder.glob("epoch-*") if (match := NAME.fullmatch(path.name))]
        return [name for _, name in sorted(found, key=lambda f: _age(f[0]), reverse=True)]

    def _unfinished(self, name: str) -> bool:
        try:
            checkpoint.load(self.folder / name)
        except DamagedError as error:
            return isinstance(error, UnfinishedError)
        return False

    def _was_best(self, name: str) -> bool:
        try:
            return checkpoint.load(self.folder / name).was_best
        except DamagedError:
            return False

    def open(self, name: str) -> Checkpoint:
        """A checkpoint, all its files checked; they are read again only where they have changed since."""
        found = checkpoint.load(self.folder / name)
        if self._sound.get(name) != stamp(found):
            found.verify()
            self._sound[name] = stamp(found)
        return found

    def _first_intact(
        self, named: list[str], others: Iterable[str], validated: bool = False
    ) -> tuple[Checkpoint | None, DamagedError | None]:
        """The first intact one of those named, or else of the others (of the validated ones, if only they will do);
        and where there is none, what was wrong with the first."""
        broken: list[DamagedError] = []
        for name in dict.fromkeys([*named, *others]):
            try:
                found = self.open(name)
            except DamagedError as error:
                if name in named or not isinstance(error, UnfinishedError):
                    broken.append(error)
                continue
            if validated and name not in named and not found.values:
                continue
            for error in broken:
                if str(error) not in self._told:
                    self._told.add(str(error))
                    log.warning("%s; an older checkpoint takes its place: %s", error, found.path.name)
            return found, None
        return None, broken[0] if broken else None


def stamp(found: Checkpoint) -> list[tuple[int, int, int]]:
    """What changes when one of its files does."""
    try:
        facts = [path.stat() for path in found.files()]
    except OSError as error:
        raise DamagedError(f"{error.filename} is damaged: {error.strerror}") from None
    return [(fact.st_ino, fact.st_size, fact.st_mtime_ns) for fact in facts]


def _age(name: re.Match[str]) -> tuple[int, int, int]:
    epoch, step, again = (int(number or 0) for number in name.groups())
    return step, epoch, again
