"""The step of Muon, SOAP and Shampoo on the 23 M transformer of step.py, ours against others', side by side.

    python benchmarks/matrix.py [muon soap shampoo] [--rounds N] [--layers N]

Muon stands against torch.optim.Muon with torch's fused AdamW for what is no hidden matrix; SOAP and Shampoo against
pytorch_optimizer's, with preconditioners worked out every ten steps on both sides. Both take turns, round after round,
a round is as many steps as it takes to work them out once, and figures are medians over the rounds. Gradients change
from step to step: of one that stays the same, preconditioners would have no full rank. Bar: 0.7.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from step import BLOCK, WIDTH
from torch import nn

import surefoot as sf

POOL = 16  # gradients of a shape
HIDDEN = [shape for shape in BLOCK if len(shape) == 2]
REST = [(8192, WIDTH), (256, WIDTH), *[shape for shape in BLOCK if len(shape) == 1]]


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """Parameters, the same at each call."""
    torch.manual_seed(0)
    return [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]


def gradients(optimizers: list[Any], pool: dict[torch.Size, list[torch.Tensor]], step: int) -> None:
    """Give every parameter the gradient of a step; those of one shape have different ones."""
    for optimizer in optimizers:
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            if p.shape not in pool:
                pool[p.shape] = [torch.randn_like(p) for _ in range(POOL)]
            p.grad = pool[p.shape][(step + 5 * i) % POOL]


def contestants(name: str, layers: int) -> tuple[list[Any], list[Any], int]:
    """Ours, theirs, and how many steps a round takes."""
    hidden, rest = HIDDEN * layers, REST
    if name == "muon":
        ours = sf.optim.Muon(
            [{"params": parameters(hidden)}, {"params": parameters(rest), "algorithm": "adamw"}], lr=1e-3
        )
        theirs = [torch.optim.Muon(parameters(hidden), lr=1e-3), torch.optim.AdamW(parameters(rest), fused=True)]
        return [ours], theirs, 1
    import pytorch_optimizer

    if name == "soap":
        # their preconditioners have no limit below the vocabulary's 8192 rows, which take minutes: both leave these out
        options: dict[str, Any] = {"lr": 1e-3, "precondition_frequency": 10}
        ours = sf.optim.SOAP(parameters(hidden), max_precond_dim=4096, **options)
        return [ours], [pytorch_optimizer.SOAP(parameters(hidden), max_precondition_dim=4096, **options)], 10
    ours = sf.optim.Shampoo(parameters(hidden), lr=1e-3, precondition_frequency=10)
    theirs = pytorch_optimizer.Shampoo(parameters(hidden), lr=1e-3, preconditioning_compute_steps=10)
    return [ours], [theirs], 10


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=["muon", "soap", "shampoo"])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--layers", type=int, default=6)
    args = options.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.layers} layers, {args.rounds} rounds")
    print("| optimizer | ours, ms a step | theirs, ms a step | ratio |\n|---|---|---|---|")
    for name in args.names:
        ours, theirs, steps = contestants(name, args.layers)
        pool: dict[torch.Size, list[torch.Tensor]] = {}
        times: list[list[float]] = [[], []]
        for turn in range(args.rounds + 1):
            for side, found in zip((ours, theirs), times, strict=True):
                took = 0.0
                for step in range(steps):
                    gradients(side, pool, turn * steps + step)
                    began = time.perf_counter()
                    for optimizer in side:
                        optimizer.step()
                    took += time.perf_counter() - began
                found.append(1e3 * took / steps)
        a, b = (statistics.median(found[1:]) for found in times)  # the first round makes the states
        print(f"| {name} | {a:.0f} | {b:.0f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
