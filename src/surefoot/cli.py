"""The command line: `surefoot train TASK`, `surefoot tasks`, `surefoot explain NAME`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tomli

import surefoot
from surefoot.errors import UserError, place
from surefoot.optim.info import info
from surefoot.optim.registry import names
from surefoot.record import Run
from surefoot.task.builtin import BUILTIN
from surefoot.task.load import load
from surefoot.task.recipe import SETTINGS, Recipe
from surefoot.task.task import Task
from surefoot.train.loop import default_dir, train
from surefoot.train.progress import clock, words
from surefoot.train.stop import Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = parser().parse_args(argv)
    if args.traceback:
        return args.command(args)
    try:
        return args.command(args)
    except UserError as error:
        return fail(str(error))
    except Interrupted as stopped:
        return fail(str(stopped), status=128 + stopped.signum)
    except BrokenPipeError:  # who reads has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter's own last flush
        return 1
    except Exception as error:  # the task's own code may raise anything: one line, and how to see the rest
        return fail(f"{type(error).__name__}: {error} ({place(error)}; --traceback shows how it came to that)")


def fail(message: str, status: int = 1) -> int:
    print(f"surefoot: {' '.join(message.split())}", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    top = Parser(prog="surefoot", description="The optimization layer of PyTorch training.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"surefoot {surefoot.__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a task", description=train_task.__doc__, allow_abbrev=False)
    command.set_defaults(command=train_task)
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
    command.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe in TOML (default: the task's own)")
    settings = command.add_argument_group(
        "recipe", "single settings; the others stay as the task's own recipe or the file says"
    )
    for name, field in SETTINGS.items():
        if name == "options":
            settings.add_argument(
                "--option", action="append", metavar="NAME=VALUE", type=option, help=field.metadata["help"]
            )
        else:
            flag, read = f"--{name.replace('_', '-')}", READERS[field.type]
            words = field.metadata["help"]
            settings.add_argument(flag, type=read, metavar="X", help=words, default=argparse.SUPPRESS)

    listing = commands.add_parser("tasks", help="list the built-in tasks", allow_abbrev=False)
    listing.set_defaults(command=list_tasks)
    explaining = commands.add_parser("explain", help="say what is known of an optimizer", allow_abbrev=False)
    explaining.set_defaults(command=explain)
    explaining.add_argument("name", nargs="?", metavar="NAME", help="an optimizer; without one, all are listed")
    for each in (command, listing, explaining):
        each.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    return top


def option(text: str) -> tuple[str, Any]:
    """An optimizer's option: its name, and its value as TOML writes it (or as bare text)."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        return name, tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError:
        return name, value


def number_or_none(text: str) -> float | None:
    """A number, or `none`."""
    return None if text == "none" else float(text)


READERS: dict[str, Any] = {"str": str, "int": int, "float": float, "float | None": number_or_none}


def train_task(args: argparse.Namespace) -> int:
    """Train a task by its own recipe, or by that of a file; single settings override either."""
    if args.task is None:
        if not args.resume:
            raise UserError("which task? (surefoot tasks lists the built-in ones)")
        args.dir = args.dir or newest_run()
        began = Run(args.dir).task
        home, colon, function = began["task"].rpartition(":")
        args.task = f"{began['source']}:{function}" if home.endswith(".py") else f"{home}{colon}{function}"
    task = load(args.task)
    dir = args.dir or default_dir(task)
    recipe = wanted_recipe(args, Run(dir).recipe if args.resume else task.recipe or Recipe())
    if not args.quiet:
        print(f"{task.name}: {recipe.optimizer}, lr {recipe.lr:g}, {recipe.schedule}, {recipe.epochs} epochs")
        if args.resume and Run(dir).summary.get("status") == "finished":
            print("this run is finished already: nothing is left to do")
    run = train(task, recipe, dir, resume=args.resume, device=args.device, quiet=args.quiet)
    if not args.quiet:
        print_result(run, task)
    return 0


def wanted_recipe(args: argparse.Namespace, base: Recipe) -> Recipe:
    """The recipe of the file, or else `base`, with the settings of the command line."""
    if args.recipe is not None:
        base = Recipe.load(args.recipe)
    changes = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    if args.option:
        same = changes.get("optimizer", base.optimizer) == base.optimizer
        changes["options"] = {**(base.options if same else {}), **dict(args.option)}
    return base.replace(**changes)


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
    print(f"summary      {run.dir / 'summary.json'}")


def explain(args: argparse.Namespace) -> int:
    """Say what is known of an optimizer, or list them all."""
    if args.name is not None:
        print(info(args.name))
        return 0
    for name in names():
        print(f"{name:22}{info(name).suits}")
    return 0


def list_tasks(args: argparse.Namespace) -> int:
    """List the built-in tasks."""
    for name, builtin in BUILTIN.items():
        print(f"{name:16}{builtin.summary}")
    return 0
