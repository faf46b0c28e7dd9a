"""What is tried before a long training: surefoot overfit, prove-resume."""

from __future__ import annotations

import argparse

from surefoot.cli.parser import Commands, add_recipe, wanted_recipe
from surefoot.task.load import load
from surefoot.task.recipe import Recipe
from surefoot.train.overfit import overfit
from surefoot.train.prove import is_task, prove_resume


def add(commands: Commands) -> None:
    """The commands and their flags."""
    fitting = commands.add("overfit", fit, "fit one batch, or say why that cannot be done")
    fitting.add_argument("task", metavar="TASK", help="a task, as for train")
    fitting.add_argument("--try-steps", type=int, default=300, metavar="N", help="steps at each rate (300)")
    fitting.add_argument("--device", help="cpu, cuda ... (default: a GPU if there is one)")
    add_recipe(fitting)
    proving = commands.add("prove-resume", prove, "prove that a training can be resumed bit for bit")
    proving.add_argument(
        "task", metavar="TASK", help="a task, or path/to/file.py:function of a loop of your own (dir, steps, resume)"
    )
    proving.add_argument(
        "--stop-after", type=int, default=10, metavar="K", help="steps before it stops, and after (10)"
    )
    proving.add_argument("--drill", type=int, default=0, metavar="N", help="so often SIGTERM at a random moment, too")
    proving.add_argument("--workers", type=int, default=0, metavar="N", help="processes that fetch the items")
    proving.add_argument("--processes", type=int, default=1, metavar="N", help="processes that train together (DDP)")
    proving.add_argument("--device", help="cpu, cuda ... (default: a GPU if there is one)")
    add_recipe(proving)


def fit(args: argparse.Namespace) -> int:
    """Train on one batch alone until its loss is near its floor; the status is 1 where it does not come there."""
    task = load(args.task)
    tried = overfit(task, wanted_recipe(args, task.recipe or Recipe()), args.try_steps, args.device)
    print(tried)
    return 0 if tried.fits else 1


def prove(args: argparse.Namespace) -> int:
    """Train 2 k steps at once, and k and k more in a new process, and compare what they end with, bit for bit."""
    recipe = wanted_recipe(args, load(args.task).recipe or Recipe()) if is_task(args.task) else None
    proof = prove_resume(
        args.task,
        args.stop_after,
        recipe=recipe,
        drill=args.drill,
        workers=args.workers,
        processes=args.processes,
        device=args.device,
    )
    print(proof)
    return 0 if proof.exact else 1
