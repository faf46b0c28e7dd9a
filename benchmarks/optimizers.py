"""Every optimizer of the registry at the registry's own rate: how its loss compares with the best one's.

    python benchmarks/optimizers.py [OPTIMIZER ...] [--tasks TASK ...] [--seeds N] [--save FILE]

Each trains a task by the task's own recipe (schedule, length, batch size) and is judged by its best validation loss,
the median over the seeds, divided by the best optimizer's. `sf.optim.info(name).within` states the largest of these
ratios, rounded up: what may be lost by taking the optimizer without tuning its rate.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

import surefoot as sf
from surefoot.task.load import load

TASKS = ("digits-mlp", "quadratic-deep", "stdlib-gru")
LEFT_OUT = ("lbfgs", "sparse-adam")  # a closure; Adam, but for sparse gradients


def trained(task: str, optimizer: str, seeds: int) -> list[float]:
    """The best validation loss of each seed; infinite where the training failed."""
    losses: list[float] = []
    whole = load(task)
    recipe = whole.recipe.replace(optimizer=optimizer, lr=sf.Recipe(optimizer=optimizer).lr, options={})
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = sf.train(whole, recipe.replace(seed=seed), Path(folder) / "run", quiet=True)
            except sf.UserError as error:
                print(f"{task} {optimizer} {seed}: {error}", flush=True)
                losses.append(math.inf)
            else:
                losses.append(min(value for _, value in run.signal("val/loss")))
    return losses


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("optimizers", nargs="*", default=[name for name in sf.optim.names() if name not in LEFT_OUT])
    options.add_argument("--tasks", nargs="*", default=TASKS)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--save", type=Path, help="a file that keeps what was measured, and is gone on with")
    args = options.parse_args()
    known = json.loads(args.save.read_text()) if args.save and args.save.exists() else {}
    for task in args.tasks:
        for name in args.optimizers:
            key = f"{task} {name} {args.seeds}"
            if key not in known:
                began = time.monotonic()
                known[key] = trained(task, name, args.seeds)
                print(f"{key}: {known[key]} {time.monotonic() - began:.0f} s", flush=True)
                if args.save:
                    args.save.write_text(json.dumps(known, indent=0))
    found = {
        name: {task: statistics.median(known[f"{task} {name} {args.seeds}"]) for task in args.tasks}
        for name in args.optimizers
    }
    best = {task: min(each[task] for each in found.values()) for task in args.tasks}
    print(f"torch {torch.__version__}, {args.seeds} seeds")
    print("| optimizer | lr | " + " | ".join(args.tasks) + " | largest ratio |")
    print("|---" * (3 + len(args.tasks)) + "|")
    for name, losses in found.items():
        ratios = [losses[task] / best[task] for task in args.tasks]
        cells = " | ".join(f"{losses[task]:.4f} ({ratio:.2f})" for task, ratio in zip(args.tasks, ratios, strict=True))
        lr = sf.Recipe(optimizer=name).lr
        print(f"| {name} | {lr:g} | {cells} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
