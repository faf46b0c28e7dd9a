"""The step of every elementwise rule, ours against torch's or, where torch has none, other people's, side by side.

    python benchmarks/elementwise.py [OPTIMIZER ...] [--rounds N]

Both clip by the global norm, ours with its statistics; gradients are made anew before each step. Both take turns, and
figures are medians over the rounds, the fastest of torch's ways (default, foreach) counted. Bars, those of step.py for
rules that torch has not fused: 0.40 at 23 M parameters, 0.08 at 0.4 M in 400 tensors.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from step import MODELS, Contestant

import surefoot as sf

OTHERS = {  # where torch has none: package, name there, options of both
    "Lion": ("pytorch_optimizer", "Lion", {}),
    "AdaBelief": ("pytorch_optimizer", "AdaBelief", {}),
    "Yogi": ("pytorch_optimizer", "Yogi", {}),
    "Adan": ("pytorch_optimizer", "Adan", {}),
    "ADOPT": ("pytorch_optimizer", "ADOPT", {}),
    "AdEMAMix": ("pytorch_optimizer", "AdEMAMix", {}),
    "LaProp": ("pytorch_optimizer", "LaProp", {}),
    "MARS": ("pytorch_optimizer", "MARS", {}),
    "StableAdamW": ("pytorch_optimizer", "StableAdamW", {}),
    "LAMB": ("pytorch_optimizer", "Lamb", {}),
    "LARS": ("pytorch_optimizer", "LARS", {}),
    "Prodigy": ("prodigyopt", "Prodigy", {}),
    "ScheduleFreeSGD": ("schedulefree", "SGDScheduleFree", {}),
    "ScheduleFreeAdamW": ("schedulefree", "AdamWScheduleFree", {}),
}
TORCHS = ("Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop")
SIZES = ("23 M in 76 tensors", "0.4 M in 400 tensors")


def rivals(name: str) -> dict[str, Callable[[Any], Any]]:
    """Ways that others offer."""
    if name in TORCHS:
        made = getattr(torch.optim, name)
        return {"torch, default": lambda ps: made(ps), "torch, foreach": lambda ps: made(ps, foreach=True)}
    package, theirs, options = OTHERS[name]
    return {package: lambda ps: getattr(importlib.import_module(package), theirs)(ps, **options)}


def race(name: str, size: str, rounds: int) -> tuple[float, float, str]:
    """Our time, the best of theirs, and which that is."""
    shapes = MODELS[size]
    ours = Contestant(shapes, lambda ps: getattr(sf.optim, name)(ps, clip_norm=1.0))
    theirs = {who: Contestant(shapes, make, {"foreach": True}) for who, make in rivals(name).items()}
    every = [ours, *theirs.values()]
    for each in every:
        if hasattr(each.optimizer, "train"):  # Schedule-Free's
            each.optimizer.train()
        each.step()
    for _ in range(rounds):
        for each in every:
            each.times.append(each.step())
    medians = {who: statistics.median(each.times) for who, each in theirs.items()}
    best = min(medians, key=lambda who: medians[who])
    return statistics.median(ours.times), medians[best], best


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=[*TORCHS, *OTHERS])
    options.add_argument("--rounds", type=int, default=15)
    args = options.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print("| optimizer | against | " + " | ".join(f"{size}: ours, theirs, ms | ratio" for size in SIZES) + " |")
    print("|---" * (2 + 2 * len(SIZES)) + "|")
    for name in args.names:
        cells, who = "", ""
        for size in SIZES:
            ours, best, who = race(name, size, args.rounds)
            cells += f" {1e3 * ours:.2f}, {1e3 * best:.2f} | {ours / best:.3f} |"
        print(f"| {name} | {who} |{cells}", flush=True)


if __name__ == "__main__":
    main()
