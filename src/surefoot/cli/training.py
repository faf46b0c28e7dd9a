"""surefoot train."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from surefoot.cli.parser import Commands, add_recipe, wanted_recipe
from surefoot.cli.runs import reference
from surefoot.errors import UserError
from surefoot.record import Run
from surefoot.task.load import load
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task
from surefoot.train.distributed import KINDS
from surefoot.train.dry_run import dry_run
from surefoot.train.loop import default_dir, train
from surefoot.train.progress import clock, words


def add(commands: Commands) -> None:
    """The command and its flags."""
    command = commands.add("train", train_task, "train a task")
    command.add_argument(
        "task",
        nargs="?",
        metavar="TASK",
        help="a built-in task, path/to/file.py:function or module:function; with --resume the run's own",
    )
    command.add_argument("--dir", type=Path, help="the run's directory (default: runs/ and the task's name)")
    command.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    command.add_argument("--quiet", action="store_true", help="show nothing but errors")
    command.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that fetch the items of a Dataset (default: 0)"
    )
    command.add_argument(
        "--distributed",
        choices=KINDS,
        help="train in the processes that torchrun has started: torchrun --nproc-per-node 2 -m surefoot train ...",
    )
    command.add_argument("--no-watch", action="store_true", help="do not look for what is wrong with the training")
    command.add_argument(
        "--dry-run", action="store_true", help="only try it out: check, time and measure; train nothing"
    )
    add_recipe(command)


def train_task(args: argparse.Namespace) -> int:
    """Train a task by its own recipe, or by that of a file; single settings override either."""
    if args.task is None:
        if not args.resume:
            raise UserError("which task? (surefoot tasks lists the built-in ones)")
        args.dir = args.dir or newest_run()
        args.task = reference(Run(args.dir))
    task = load(args.task)
    dir = args.dir or default_dir(task)
    recipe = wanted_recipe(args, Run(dir).recipe if args.resume else task.recipe or Recipe())
    quiet = args.quiet or int(os.environ.get("RANK", 0)) > 0
    if args.dry_run:
        tried = dry_run(task, recipe, args.device)
        print(tried)
        return 0 if tried.sound else 1
    if not quiet:
        print(f"{task.name}: {recipe.optimizer}, lr {recipe.lr:g}, {recipe.schedule}, {length(recipe)}")
        if args.resume and Run(dir).summary.get("status") == "finished":
            print("this run is finished already: nothing is left to do")
    run = train(
        task,
        recipe,
        dir,
        resume=args.resume,
        device=args.device,
        quiet=quiet,
        workers=args.workers,
        distributed=args.distributed,
        watch=not args.no_watch,
    )
    if not quiet:
        print_result(run, task)
    return 0


def length(recipe: Recipe) -> str:
    """How long a recipe trains, in words."""
    words = f"{recipe.epochs} epochs" if recipe.steps is None else f"{recipe.steps} steps"
    return words if recipe.seconds is None else f"{words}, {clock(recipe.seconds)} at most"


def newest_run() -> Path:
    """The run under runs/ that was last written to."""
    runs = [path.parent for path in Path("runs").glob("*/recipe.toml")]
    if not runs:
        raise UserError("there is no run under runs/ to resume: name its directory with --dir")
    return max(runs, key=lambda dir: max(path.stat().st_mtime for path in dir.iterdir()))


def print_result(run: Run, task: Task) -> None:
    """What came out, and where it lies."""
    summary, best, last = run.summary, run.best, run.last
    print(f"{summary['status']}: {summary['epochs']} epochs, {summary['steps']} steps in {clock(summary['seconds'])}")
    if best is not None:
        print(f"best         {words(best.values)}, after epoch {best.epoch}")
        print(f"checkpoint   {best.weights}")
    elif last is not None:
        print(f"best         none: {'there was no validation' if task.val is None else f'{task.score} was no number'}")
        print(f"checkpoint   {last.weights} (the last)")
    if (run.dir / "tensorboard").is_dir():
        print(f"TensorBoard  tensorboard --logdir {run.dir / 'tensorboard'}")
    for finding in run.findings:
        print(f"{finding['severity']:13}{finding['cause']}: surefoot diagnose {run.dir}")
    print(f"summary      {run.dir / 'summary.json'}")
