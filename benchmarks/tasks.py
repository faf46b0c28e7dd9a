"""Every built-in task with every optimizer of the guide: 30 trainings, each against the bar of its task.

    python benchmarks/tasks.py [TASK ...] [--seeds N]

Each runs the task's own recipe with the optimizer and the rate of the table below, and is judged by the best
validation loss:

    digits      below a quarter of ln 10, the loss of guessing
    stdlib      below the cross-entropy of the training text's bigram model
    quadratic   the excess over the noise floor below 1 % of what it was at the start
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

import surefoot as sf
from surefoot.task.builtin import quadratic, text
from surefoot.task.load import load

OPTIMIZERS = ("sgd", "sgd-momentum", "adam", "adamw", "rmsprop", "adagrad")
RATES = {  # task: rates in the order of OPTIMIZERS
    "digits-cnn": (0.1, 0.02, 3e-3, 3e-3, 1e-3, 0.02),
    "digits-mlp": (0.2, 0.05, 2e-3, 2e-3, 1e-3, 0.03),
    "stdlib-gpt": (0.5, 0.1, 3e-3, 3e-3, 1e-3, 0.03),
    "stdlib-gru": (1.0, 0.3, 5e-3, 5e-3, 2e-3, 0.03),
    "quadratic-deep": (1e-2, 2e-3, 0.05, 0.05, 0.02, 0.5),
}


def bar(task: str) -> float:
    """The loss that a training of this task must get below."""
    if task.startswith("digits"):
        return math.log(10) / 4
    if task.startswith("stdlib"):
        return text.bigram_loss()
    data = quadratic.draws(43)
    floor = quadratic.floor(data)
    return floor + 0.01 * (quadratic.loss_at(torch.ones(quadratic.DIMENSIONS), data) - floor)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tasks", nargs="*", default=list(RATES))
    options.add_argument("--seeds", type=int, default=1)
    args = options.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.seeds} seeds")
    print("| task | optimizer | lr | loss: median (worst) | bar | share of bar | reached | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.tasks:
        task = load(name)
        for optimizer, lr in zip(OPTIMIZERS, RATES[name], strict=True):
            losses: list[float] = []
            began = time.monotonic()
            for seed in range(args.seeds):
                recipe = task.recipe.replace(optimizer=optimizer, lr=lr, seed=seed)
                with tempfile.TemporaryDirectory() as folder:
                    run = sf.train(task, recipe, Path(folder) / "run", quiet=True)
                    losses.append(min(value for _, value in run.signal("val/loss")))
            worst, limit = max(losses), bar(name)
            print(
                f"| {name} | {optimizer} | {lr:g} | {statistics.median(losses):.4f} ({worst:.4f}) | {limit:.4f} "
                f"| {worst / limit:.2f} | {'yes' if worst < limit else 'NO'} "
                f"| {(time.monotonic() - began) / args.seeds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
