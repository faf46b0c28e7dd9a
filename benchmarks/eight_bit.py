"""AdamW with its moments in 8 bits against single precision: the loss that it reaches, and the memory that it takes.

    python benchmarks/eight_bit.py [--task stdlib-gpt] [--seeds 5]

Each seed trains both ways by the task's own recipe. Bars: the means of the final validation losses differ by at most
one standard deviation of single precision's, and both moments take at most 2.2 bytes a parameter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

import surefoot as sf
from surefoot.task.load import load


def final(task: str, seed: int, **options: str) -> float:
    """The last validation loss."""
    whole = load(task)
    recipe = whole.recipe.replace(seed=seed, options={**whole.recipe.options, **options})
    with tempfile.TemporaryDirectory() as folder:
        run = sf.train(whole, recipe, Path(folder) / "run", quiet=True)
        return run.signal("val/loss")[-1][1]


def bytes_per_parameter(task: str) -> float:
    """Of both moments in 8 bits, the sizes of blocks and what stays in single precision included."""
    model = load(task).model()
    opt = sf.optim.create("adamw", model, state_dtype="8bit")
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    kept = [t for state in opt.state.values() for name, t in state.items() if name != "step"]
    total = sum(t.numel() * t.element_size() for t in kept)
    return total / sum(p.numel() for p in model.parameters())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--task", default="stdlib-gpt")
    options.add_argument("--seeds", type=int, default=5)
    args = options.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.task}")
    print(f"both moments: {bytes_per_parameter(args.task):.3f} bytes a parameter", flush=True)
    found: dict[str, list[float]] = {"fp32": [], "8bit": []}
    for seed in range(args.seeds):
        for dtype, losses in found.items():
            losses.append(final(args.task, seed, state_dtype=dtype))
            print(f"seed {seed}, {dtype}: {losses[-1]:.5f}", flush=True)
    means = {dtype: statistics.mean(losses) for dtype, losses in found.items()}
    spread = {dtype: statistics.stdev(losses) for dtype, losses in found.items()}
    for dtype in found:
        print(f"{dtype}: mean {means[dtype]:.5f}, standard deviation {spread[dtype]:.5f}")
    print(f"difference: {(means['8bit'] - means['fp32']) / spread['fp32']:+.2f} standard deviations")


if __name__ == "__main__":
    main()
