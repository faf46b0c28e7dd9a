"""Crashes: the power goes at every operation, the process is killed at any moment, the disk is full, bits rot.

A disk of the mind (`Model`) knows of each file what was synced and what was not, of each folder which names were, so
that what a crash leaves can be worked out: all that was not synced may be there, gone, or half there.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

import surefoot as sf
from surefoot.record import checkpoint
from surefoot.record.files import Disk

KEEP = 2


@dataclass(frozen=True)
class Save:
    """One save of the script: at which step, and whether it was the best."""

    step: int
    best: bool

    def to(self, run: sf.Run, wait: bool = True) -> None:
        run.save(*self.contents, 0, self.step, {"val/loss": 1.0}, self.best, keep=KEEP, wait=wait)

    @property
    def contents(self) -> tuple[dict, dict]:
        return {"w": torch.full((7,), float(self.step))}, {"m": torch.arange(3) + self.step, "step": self.step}

    def is_in(self, found: checkpoint.Checkpoint | None) -> bool:
        if found is None or found.step != self.step:
            return False
        weights, state = self.contents
        assert torch.equal(found.weights_dict()["w"], weights["w"])  # reading verifies the hashes as well
        assert torch.equal(found.state()["m"], state["m"])
        assert found.state()["step"] == self.step
        return True


SCRIPT = [Save(i, best) for i, best in enumerate([True, False, True, True, False, True, False, False, True, True], 1)]


def begin(folder: Path) -> sf.Run:
    task = sf.Task(model=lambda: nn.Linear(1, 1), loss=nn.MSELoss(), train=[], name="any")
    return sf.Run.create(folder, task, sf.Recipe())


def best_after(done: int) -> Save | None:
    return next((save for save in reversed(SCRIPT[:done]) if save.best), None)


def assert_nothing_is_left(run: sf.Run) -> None:
    """In the folder there is what the index names, and nothing else."""
    index = run.shelf.index()
    assert {path.name for path in (run.dir / "checkpoints").iterdir()} == {"index.json", *index.names}
    assert len(index.names) <= 1 + KEEP


def assert_goes_on(run: sf.Run, done: int) -> None:
    """After `done` complete saves of the script, and perhaps a part of the next, a run resumes, and saves again."""
    after = SCRIPT[done : done + 1]
    last, best = run.last, run.best
    wanted = [*SCRIPT[max(done - 1, 0) : done][-1:], *after]
    assert any(save.is_in(last) for save in wanted) or (done == 0 and last is None), last
    wanted = [save for save in (best_after(done), *after) if save and save.best]
    assert any(save.is_in(best) for save in wanted) or (best_after(done) is None and best is None), best
    new = Save(99, best=False)
    new.to(run)
    assert new.is_in(sf.Run(run.dir).last)
    assert_nothing_is_left(run)


# --- the power goes ------------------------------------------------------------------------------------------------


class Log(Disk):
    """Does what it is told, and writes down what it was; a removal is written down file by file."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, []

    def note(self, what: str, *paths: Path, data: bytes = b"") -> None:
        self.log.append((what, [path.relative_to(self.root).parts for path in paths], data))

    def make_dir(self, path):
        super().make_dir(path)
        self.note("make_dir", path)

    def write(self, path, data):
        super().write(path, data)
        self.note("write", path, data=path.read_bytes())

    def sync(self, path):
        super().sync(path)
        self.note("sync", path)

    def rename(self, old, new):
        super().rename(old, new)
        self.note("rename", old, new)

    def sync_dir(self, path):
        super().sync_dir(path)
        self.note("sync_dir", path)

    def remove(self, path):
        inside = sorted(path.rglob("*"), reverse=True) if path.is_dir() else []
        for each in [*inside, path] if path.exists() else []:
            self.note("unlink", each)
        super().remove(path)


@dataclass
class File:
    data: bytes = b""
    synced: bytes | None = None  # None: never


@dataclass
class Folder:
    names: dict = field(default_factory=dict)  # as they are on the disk for sure
    pending: list = field(default_factory=list)  # changes since, one after the other: {name: what, or None}

    def seen(self, kept=lambda i: True) -> dict:
        names = dict(self.names)
        for i, change in enumerate(self.pending):
            if kept(i):
                names.update(change)
        return {name: what for name, what in names.items() if what is not None}


class Model:
    """A disk that remembers what is not durable yet."""

    def __init__(self) -> None:
        self.root = Folder()

    def at(self, parts: tuple) -> File | Folder:
        here = self.root
        for part in parts:
            here = here.seen()[part]
        return here

    def do(self, what: str, paths: list[tuple], data: bytes) -> None:
        path = paths[0]
        folder = self.at(path[:-1]) if path else self.root
        if what == "make_dir":
            folder.pending.append({path[-1]: Folder()})
        elif what == "write":  # a new file, or an old one emptied first
            folder.pending.append({path[-1]: File(data)})
        elif what == "sync":
            file = self.at(path)
            file.synced = file.data
        elif what == "sync_dir":
            here = self.at(path)
            here.names, here.pending = here.seen(), []
        elif what == "rename":
            assert path[:-1] == paths[1][:-1]
            folder.pending.append({path[-1]: None, paths[1][-1]: self.at(path)})
        elif what == "unlink":
            folder.pending.append({path[-1]: None})

    def worlds(self) -> Iterator[dict]:
        """What a crash now may leave: as paths and contents, each once."""
        changes = [(folder, i) for folder in self.folders(self.root) for i in range(len(folder.pending))]
        keys = [(id(folder), i) for folder, i in changes]
        choices = [set(keys), set()]
        choices += [set(keys) - {key} for key in keys] + [{key} for key in keys]
        seen = set()
        for kept, data in itertools.product(choices, ("kept", "lost", "half")):
            world = dict(self.tree(self.root, kept, data))
            if (key := frozenset(world.items())) not in seen:
                seen.add(key)
                yield world

    def folders(self, here: Folder) -> Iterator[Folder]:
        yield here
        inside = {id(what): what for names in [here.names, *here.pending] for what in names.values()}
        for what in inside.values():
            if isinstance(what, Folder):
                yield from self.folders(what)

    def tree(self, here: Folder, kept: set, data: str, path: str = "") -> Iterator[tuple[str, bytes | None]]:
        for name, what in here.seen(lambda i: (id(here), i) in kept).items():
            if isinstance(what, Folder):
                yield f"{path}{name}/", None
                yield from self.tree(what, kept, data, f"{path}{name}/")
            else:
                half = what.data if data == "kept" else what.data[: len(what.data) // 2] if data == "half" else b""
                yield f"{path}{name}", half if what.synced is None else what.synced


def rebuild(folder: Path, world: dict) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for path, data in world.items():
        (folder / path).mkdir(parents=True, exist_ok=True) if data is None else (folder / path).write_bytes(data)


class Instant(Disk):
    """Does not wait for the disk: what a crash takes is the model's to say."""

    def sync(self, path):
        pass

    sync_dir = sync


def test_whatever_moment_the_power_goes_the_run_goes_on(tmp_path, record_property):
    run = begin(tmp_path / "run")
    run.shelf.disk = log = Log(run.dir / "checkpoints")
    ends = []
    for save in SCRIPT:
        save.to(run)
        ends.append(len(log.log))
    model, cases = Model(), 0
    other = begin(tmp_path / "other")
    for n, (what, paths, data) in enumerate([*log.log, ("end", [()], b"")]):
        for world in model.worlds():
            rebuild(other.dir / "checkpoints", world)
            again = sf.Run(other.dir)
            again.shelf.disk = Instant()
            assert_goes_on(again, done=sum(end <= n for end in ends))
            cases += 1
        model.do(what, paths, data)
    record_property("cases", cases)
    print(f"{len(log.log)} operations, {cases} worlds after a crash")
    assert len(log.log) > 200
    assert cases > 1000


def test_the_model_finds_a_save_that_does_not_wait_for_the_disk(tmp_path):
    """A test of the test: without syncing, the power takes what was saved, and the model says so."""

    class Careless(Log):
        def sync(self, path):
            pass

    run = begin(tmp_path / "run")
    run.shelf.disk = log = Careless(run.dir / "checkpoints")
    SCRIPT[0].to(run)
    model = Model()
    for entry in log.log:
        model.do(*entry)
    lost = 0
    for world in model.worlds():
        rebuild(run.dir / "checkpoints", world)
        try:
            lost += sf.Run(run.dir).last is None
        except sf.UserError:
            lost += 1
    assert lost > 0


# --- the process is killed -----------------------------------------------------------------------------------------


def saving(run: sf.Run, told: int, wait: bool) -> None:
    """Save without end; after each save that is complete say its step."""
    step = run.last.step if run.last else 0
    while True:
        step += 1
        Save(step, best=step % 3 == 0).to(run, wait)
        run.settle()
        os.write(told, b"%d\n" % step)


def killed_at_a_random_moment(run: sf.Run, moment: random.Random, reach: float, wait: bool) -> int:
    """How many saves were completed before the kill; the run must go on from the last of them, or from the next."""
    before = run.last.step if run.last else 0
    hear, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(hear)
            saving(sf.Run(run.dir), told, wait)
        finally:
            os._exit(1)
    os.close(told)
    time.sleep(moment.uniform(0.002, reach))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with open(hear) as lines:
        done = [int(line) for line in lines]
    assert os.WTERMSIG(status) == signal.SIGKILL
    last = sf.Run(run.dir).last
    completed = done[-1] if done else before
    allowed = [Save(step, best=False) for step in (completed, completed + 1)]
    assert any(save.is_in(last) for save in allowed) or (completed == 0 and last is None)
    return len(done)


def kill(tmp_path: Path, times: int) -> None:
    run, moment = begin(tmp_path / "run"), random.Random(7)
    began = time.monotonic()
    for step in range(1, 6):
        Save(step, best=False).to(sf.Run(run.dir))
    reach = max(0.08, time.monotonic() - began)  # a kill hits one of the first saves, on a busy machine too
    completed = 0
    for i in range(times):
        completed += killed_at_a_random_moment(sf.Run(run.dir), moment, reach, wait=i % 2 == 0)
    assert completed > times / 4  # kills hit saves, and not the beginning alone
    again = sf.Run(run.dir)
    Save(10**6, best=True).to(again)
    assert_nothing_is_left(again)


def test_a_killed_process_leaves_an_intact_checkpoint(tmp_path):
    kill(tmp_path, 20)


@pytest.mark.slow
def test_many_killed_processes_leave_an_intact_checkpoint(tmp_path):
    kill(tmp_path, 200)


# --- the disk is full ----------------------------------------------------------------------------------------------


class Full(Disk):
    """The operation number `at` fails, half done; and all that need room after it, where the disk stays full."""

    def __init__(self, at: int, stays: bool) -> None:
        self.at, self.stays, self.n, self.failed = at, stays, -1, ""

    def operation(self, name: str) -> bool:
        self.n += 1
        if self.n == self.at or (self.stays and self.n > self.at and name in ("write", "make_dir")):
            self.failed = self.failed or name
            return True
        return False

    def make_dir(self, path):
        if self.operation("make_dir"):
            raise OSError(28, "No space left on device")
        super().make_dir(path)

    def write(self, path, data):
        if self.operation("write"):
            whole = data if isinstance(data, bytes) else b"".join(bytes(piece) for piece in data)
            path.write_bytes(whole[: len(whole) // 2])
            raise OSError(28, "No space left on device")
        super().write(path, data)

    def sync(self, path):
        if self.operation("sync"):
            raise OSError(5, "Input/output error")
        super().sync(path)

    def rename(self, old, new):
        if self.operation("rename"):
            raise OSError(28, "No space left on device")
        super().rename(old, new)

    def sync_dir(self, path):
        if self.operation("sync_dir"):
            raise OSError(5, "Input/output error")
        super().sync_dir(path)


@pytest.mark.parametrize("stays", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("wait", [True, False], ids=["wait", "background"])
def test_whatever_operation_fails_the_save_says_so_and_the_older_stands(tmp_path, stays, wait):
    failed = []
    for at in itertools.count():
        run = begin(tmp_path / f"{at}")
        for save in SCRIPT[:3]:
            save.to(run)
        run.shelf.disk = disk = Full(at, stays)
        try:
            SCRIPT[3].to(run, wait)
            run.settle()
        except sf.UserError as error:
            words = str(error)
        else:
            break
        assert "cannot save to" in words
        assert "No space left" in words or "Input/output error" in words
        failed.append(disk.failed)
        assert not list((run.dir / "checkpoints").glob(".epoch-*.new"))  # what was half written is gone at once
        assert_goes_on(sf.Run(run.dir), done=3)
        shutil.rmtree(run.dir)
    assert not disk.failed
    print(f"{len(failed)} failed operations")
    assert len(failed) >= 15
    assert {"make_dir", "write", "sync", "rename", "sync_dir"} == set(failed)


# --- bits rot ------------------------------------------------------------------------------------------------------


def spoiled(data: bytes, every_bit: bool) -> Iterator[bytes]:
    """A file cut short in several places, and with one bit changed: each there is, or one in every 4th byte."""
    size = len(data)
    for cut in {0, 1, 7, 8, size // 3, size // 2, size - 1}:
        yield data[:cut]
    yield data + b"\0"
    for at in range(size) if every_bit else sorted({*range(0, size, 4), 7, 8, size // 2, size - 1}):
        for bit in range(8) if every_bit else [at * 5 % 8]:
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def rot(tmp_path: Path, caplog: pytest.LogCaptureFixture, every_bit: bool) -> int:
    run = begin(tmp_path / "run")
    for save in SCRIPT[:5]:
        save.to(run)
    newest, cases = run.last.path, 0
    assert sorted(path.name for path in newest.iterdir()) == sorted([
        "commit", "manifest.json", "model.safetensors", "state.safetensors",
    ])  # fmt: skip
    for file in newest.iterdir():
        data = file.read_bytes()
        for bad in spoiled(data, every_bit):
            file.write_bytes(bad)
            caplog.clear()
            again = sf.Run(run.dir)
            assert SCRIPT[3].is_in(again.last)
            assert SCRIPT[3].is_in(again.best)
            assert len([r for r in caplog.records if file.name in r.message]) == len(caplog.records) == 1
            cases += 1
        file.write_bytes(data)
    assert SCRIPT[4].is_in(sf.Run(run.dir).last)
    return cases


def test_no_changed_bit_is_loaded(tmp_path, caplog):
    cases = rot(tmp_path, caplog, every_bit=False)
    print(f"{cases} damaged files")
    assert cases > 200


@pytest.mark.slow
def test_no_changed_bit_is_loaded_wherever_it_is(tmp_path, caplog):
    cases = rot(tmp_path, caplog, every_bit=True)
    print(f"{cases} damaged files")
    assert cases > 4000
