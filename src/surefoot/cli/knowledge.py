"""What surefoot knows: surefoot tasks, explain, schedule."""

from __future__ import annotations

import argparse
from pathlib import Path

from surefoot.cli.parser import Commands
from surefoot.diagnose.knowledge import LANGUAGES, causes, page, symptoms
from surefoot.diagnose.words import explained
from surefoot.errors import UserError, unknown
from surefoot.optim.info import info
from surefoot.optim.registry import names
from surefoot.schedule import parse, plot
from surefoot.task.builtin import BUILTIN


def add(commands: Commands) -> None:
    """The commands and their flags."""
    commands.add("tasks", list_tasks, "list the built-in tasks")
    explaining = commands.add("explain", explain, "say what is known of a cause, a symptom or an optimizer")
    explaining.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a cause or symptom of a finding, or an optimizer; without one, all are listed",
    )
    explaining.add_argument("--lang", choices=LANGUAGES, default="en", help="of causes and symptoms (default: en)")
    drawing = commands.add("schedule", draw_schedules, "draw schedules in the terminal")
    drawing.add_argument("expressions", nargs="+", metavar="EXPR", help='such as "linear(0.1, 1, 5) >> cosine(195)"')
    drawing.add_argument("--total", type=float, metavar="X", help="how long the run is: for shapes without a length")
    drawing.add_argument("--steps-per-epoch", type=float, metavar="X", help='how long an epoch is: for "5ep"')
    drawing.add_argument("--save", type=Path, metavar="FILE", help="draw a picture into a file instead")


def explain(args: argparse.Namespace) -> int:
    """Say what is known of a cause, a symptom or an optimizer, or list them all."""
    pages = (*causes(), *symptoms())
    if args.name is not None and args.name not in pages and args.name not in names():
        raise unknown("cause, symptom or optimizer", args.name, (*pages, *names()))
    if args.name is not None:
        print(explained(args.name, args.lang) if args.name in pages else info(args.name))
        return 0
    for title, codes in (("symptoms", symptoms()), ("causes", causes())):
        print(title)
        for code in codes:
            print(f"  {code:22}{page(code).title(args.lang)}")
    print("optimizers")
    for name in names():
        print(f"  {name:22}{info(name).suits}")
    return 0


def draw_schedules(args: argparse.Namespace) -> int:
    """Draw schedules in the terminal: the factor on the base rate over time."""
    schedules = [parse(expression) for expression in args.expressions]
    for name in ("total", "steps_per_epoch"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} must be a number above 0")
    if args.save is None:
        print(plot.terminal(schedules, args.total, args.steps_per_epoch))
        return 0
    plot.save(schedules, args.save, args.total, args.steps_per_epoch)
    print(args.save)
    return 0


def list_tasks(args: argparse.Namespace) -> int:
    """List the built-in tasks."""
    for name, builtin in BUILTIN.items():
        print(f"{name:16}{builtin.summary}")
    return 0
