"""Proving that a training goes on as if it had never stopped: k + k steps against 2 k, each in a fresh process."""

from __future__ import annotations

import inspect
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UserError
from surefoot.record import Run, checkpoint
from surefoot.task.load import function_of, load, source_of
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task
from surefoot.task.trees import parts
from surefoot.train.loop import train
from surefoot.train.stop import Interrupted

TIMES = ("position.seconds", "laps", "ledger.time")  # what no two trainings share
LOOP = ("dir", "steps", "resume")  # what a loop of the user's own takes


@dataclass(frozen=True)
class Proof:
    """What came out: whether every training that was stopped and resumed ended like the one that was not.

    difference: the first thing that differs, in words; "" if nothing does
    compared: how many tensors, numbers and recorded values were compared
    stops: the steps at which it was stopped
    """

    difference: str
    compared: int
    stops: tuple[int, ...]

    @property
    def exact(self) -> bool:
        return not self.difference

    def __str__(self) -> str:
        where = f"stopped after step {', '.join(map(str, self.stops))}"
        if self.exact:
            return f"exact: {where} and resumed in a new process, all {self.compared} values are the same bit for bit"
        return f"not exact: {where} and resumed in a new process, {self.difference}"


def prove_resume(
    what: str | Task | Callable[..., Any],
    steps: int = 10,
    *,
    recipe: Recipe | None = None,
    drill: int = 0,
    workers: int = 0,
    processes: int = 1,
    device: str | None = None,
    seed: int = 0,
) -> Proof:
    """Train 2 k steps at once, and k, then k more in another process; compare what they end with, bit for bit.

    Compared are weights, optimizer, schedule, loss scale, averages, buffers, random numbers and the record.

    Args:
        what: a task (as the command line calls it, or a `sf.Task` loaded so), or a loop of your own: a function in a
            file, or its name as "file.py:function". It is called as `function(dir, steps, resume)`: it must train until
            that many steps are taken in all, from the start or from what it left in `dir`, save there what it would go
            on from, and return all that matters, as a tree of dicts, lists, tensors and numbers
        steps: k
        recipe: how to train the task; its length does not matter
        drill: in so many further trainings, SIGTERM comes from outside at a random moment
        workers, device: as for `train`
        processes: more than one train together (DDP, by torchrun)
        seed: of the drill's moments

    Returns:
        a Proof: `proof.exact`, and what differs

    Raises:
        UserError: for what cannot be found from a new process, and where a training fails
    """
    if steps < 1 or drill < 0 or processes < 1:
        raise UserError("prove_resume: steps and processes must be at least 1, and drill at least 0")
    name = _name(what)
    subject = load(name) if is_task(name) else None
    if subject is None and (recipe is not None or drill or processes > 1):
        raise UserError(
            "prove_resume: recipe, drill and processes are for tasks; a loop of your own is called as it is"
        )
    with TemporaryDirectory() as folder:
        home = Path(folder)
        if subject is not None:
            chosen = recipe or subject.recipe or Recipe()
            (home / "recipe.toml").write_text(chosen.replace(steps=2 * steps).to_toml())
        common = {"what": name, "steps": 2 * steps, "workers": workers, "device": device, "processes": processes}
        common["recipe"] = None if subject is None else str(home / "recipe.toml")
        whole, halves = home / "whole", home / "halves"
        _run({**common, "dir": str(whole)})
        _run({**common, "dir": str(halves), "stop": steps})
        stops = [_reached(halves, steps)]
        _run({**common, "dir": str(halves), "resume": True})
        compared, difference = compare(_results(whole), _results(halves))
        moments = random.Random(seed)
        for number in range(drill):
            if difference:
                break
            other = home / f"drill-{number}"
            delay = moments.uniform(0, Run(whole).summary["seconds"])
            stops.append(_interrupted({**common, "dir": str(other)}, delay))
            _run({**common, "dir": str(other), "resume": Run.exists(other)})
            compared, difference = compare(_results(whole), _results(other))
    return Proof(difference, compared, tuple(stops))


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, str]:
    """How many leaves two trees have, and the first that differs, in words."""
    ours, theirs = dict(_leaves(one)), dict(_leaves(other))
    for name, value in ours.items():
        if name not in theirs:
            return len(ours), f"{name} is missing"
        difference = _different(value, theirs[name])
        if difference:
            return len(ours), f"{name} differs: {difference}"
    more = next((name for name in theirs if name not in ours), "")
    return len(ours), f"{more} is there too much" if more else ""


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if any(name == each or name.endswith(f".{each}") for each in TIMES):
        return
    found = parts(tree)
    if found is None:
        yield name, tree
    for key, part in found or ():
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _different(one: Any, other: Any) -> str:
    """How two leaves differ; "" if they are the same bit for bit."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        same = type(one) is type(other) and (one == other or (one != one and other != other))
        return "" if same else f"{one!r} and {other!r}"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
    bits, others = (t.detach().cpu().contiguous().view(-1).view(torch.uint8) for t in (one, other))
    if torch.equal(bits, others):
        return ""
    size = one.element_size()
    count = int((bits != others).view(-1, size).any(1).sum())
    most = float((one.detach().double() - other.detach().double()).abs().max())
    return f"{count} of {one.numel()} values, by up to {most:.3g}"


def _name(what: Any) -> str:
    """What a new process finds it by."""
    if isinstance(what, str):
        return what
    if isinstance(what, Task):
        if what.source is None:
            raise UserError(
                "prove_resume starts new processes, which must find the task: name it as the command line does, "
                '"path/to/file.py:function"'
            )
        return what.name
    file = source_of(what) if callable(what) else None
    if file is None or not what.__qualname__.isidentifier():
        raise UserError(f"prove_resume starts new processes, which cannot find {what!r}: give a function in a file")
    return f"{file}:{what.__name__}"


def is_task(name: str) -> bool:
    """Whether a name is that of a task's function, which takes nothing."""
    if ":" not in name:
        return True
    needed = [
        p.name
        for p in inspect.signature(function_of(name)).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed and tuple(needed) != LOOP:
        raise UserError(f"{name} must take nothing (a task) or ({', '.join(LOOP)}) (a loop), not ({', '.join(needed)})")
    return not needed


def _command(job: Mapping[str, Any]) -> list[str]:
    start = [sys.executable]
    if job["processes"] > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job['processes']}"]
    return [*start, "-m", "surefoot.train.prove", json.dumps(job)]


def _environment() -> dict[str, str]:
    """The same number of threads, and the same modules, as here."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": paths}


def _run(job: Mapping[str, Any]) -> None:
    """Train in a new process, to its end."""
    done = subprocess.run(_command(job), env=_environment(), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise UserError(f"the training in a new process failed: {lines[-1]}")


def _interrupted(job: Mapping[str, Any], delay: float) -> int:
    """Train in a new process that gets SIGTERM so many seconds after its run is made; returns the step it came to."""
    dir = Path(job["dir"])
    process = subprocess.Popen(
        _command(job), env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not Run.exists(dir) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    if process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        raise UserError(f"the training ended with {process.returncode} after SIGTERM: {errors.strip()[-300:]}")
    return _reached(dir, 0)


def _reached(dir: Path, otherwise: int) -> int:
    """The step that a task's run has come to."""
    last = Run(dir).last if Run.exists(dir) else None
    return otherwise if last is None else last.step


def _results(dir: Path) -> dict[str, Any]:
    """All that a training has left, and that must be the same."""
    if not Run.exists(dir):
        return checkpoint.load(dir / "proof").state()
    run = Run(dir)
    last = run.last
    if last is None:
        raise UserError("the training left no checkpoint")
    record = {name: dict(run.signal(name)) for name in run.signals}
    return {"model": last.weights_dict(), **last.state(), "values": dict(last.values), "record": record}


def _leg(job: Mapping[str, Any]) -> int:
    """What a new process does: train, and leave in a folder what is to be compared."""
    dir, stop = Path(job["dir"]), job.get("stop")
    if job["recipe"] is None:
        tree = function_of(job["what"])(dir=dir, steps=stop or job["steps"], resume=job.get("resume", False))
        shutil.rmtree(dir / "proof", ignore_errors=True)  # of the first k steps
        checkpoint.write(dir / "proof", checkpoint.snapshot({}, tree, 0, job["steps"], {}))
        return 0

    def ask(training: Any, stop: int | None) -> None:
        if training.position.step == stop:
            signal.raise_signal(signal.SIGTERM)

    resume = job.get("resume", False)
    options: dict[str, Any] = {"resume": resume, "workers": job["workers"], "device": job["device"], "quiet": True}
    if job["processes"] > 1:
        options["distributed"] = "ddp"
    try:
        train(
            load(job["what"]),
            None if resume else Recipe.load(Path(job["recipe"])),
            dir,
            callbacks={"step": partial(ask, stop=stop)},
            **options,
        )
    except Interrupted as stopped:
        return 0 if stop is not None else 128 + stopped.signum
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_leg(json.loads(sys.argv[1])))
    except UserError as error:
        sys.exit(f"surefoot: {error}")
