"""Our rounding error over 200 steps as a share of torch's own, for every optimizer, option and precision.

    python benchmarks/accuracy.py

Both replay the same gradients of three random models; the truth is the equation of the class's docstring,
executed in numpy's extended precision (tests/optim/equations.py). The bar: at most twice torch's own in every case.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "optim"))

import torch
from cases import CASES, models, replay, trajectory
from equations import truth as truth_of
from test_accuracy import error

import surefoot as sf

BAR = 2.0


def main() -> None:
    torch.set_num_threads(1)
    tracks = [trajectory(kind, steps=200, seed=seed) for seed, kind in enumerate(models())]
    print(f"torch {torch.__version__}\n")
    print("| optimizer | options | fp32: least, most | fp64: least, most |\n|---|---|---|---|")
    worst = 0.0
    for name, cases in CASES.items():
        for options in cases:
            ratios: dict[torch.dtype, list[float]] = {torch.float32: [], torch.float64: []}
            for start, gradients in tracks:
                truth = truth_of(name, options, start, gradients)
                for dtype, found in ratios.items():
                    ours, theirs = (
                        error(replay(getattr(m.optim, name), options, start, gradients, dtype), truth)
                        for m in (sf, torch)
                    )
                    found.append(ours / theirs)
            worst = max(worst, *(max(found) for found in ratios.values()))
            cells = " | ".join(f"{min(found):.2f}, {max(found):.2f}" for found in ratios.values())
            print(f"| {name} | {', '.join(f'{k}={v}' for k, v in options.items()) or 'none'} | {cells} |", flush=True)
    print(f"\nbar: at most {BAR} everywhere; the worst is {worst:.2f}: {'reached' if worst <= BAR else 'NOT REACHED'}")


if __name__ == "__main__":
    main()
