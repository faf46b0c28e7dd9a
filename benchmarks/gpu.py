"""The time of an optimizer's step on a GPU, ours against torch's, side by side in one process.

    make bench-gpu GPU_PYTHON=python3    # or: PYTHONPATH=src python3 benchmarks/gpu.py [--rounds 100]

A step is clipping by the global norm and the update; ours gathers its statistics besides. All contestants take turns,
round after round, on gradients of their own; the time is that between two CUDA events, which is the device's where it
has more to do than the host and the host's where it has less. Ratios are of medians over the rounds.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections.abc import Callable

import torch
from step import MODELS
from torch import nn
from torch.nn.utils import clip_grad_norm_

import surefoot as sf

WIDE = 1024
LAYER = [(3 * WIDE, WIDE), (3 * WIDE,), (WIDE, WIDE), (WIDE,), (4 * WIDE, WIDE), (4 * WIDE,), (WIDE, 4 * WIDE)]
LAYER += [(WIDE,)] * 5
SHAPES = {
    "350 M in 292 tensors": [(50304, WIDE), (1024, WIDE), *LAYER * 24, (WIDE,), (WIDE,)],
    "23 M in 76 tensors": MODELS["23 M in 76 tensors"],
    "0.4 M in 400 tensors": MODELS["0.4 M in 400 tensors"],
}
ROWS = [  # model, rule, its options, bytes that both passes move for an element, the bar against the best of torch's
    ("350 M in 292 tensors", "AdamW", {"lr": 1e-3}, 32, 0.88),
    ("23 M in 76 tensors", "AdamW", {"lr": 1e-3}, 32, 0.75),
    ("0.4 M in 400 tensors", "AdamW", {"lr": 1e-3}, 32, 0.40),
    ("350 M in 292 tensors", "RMSprop", {"lr": 1e-3, "momentum": 0.9}, 32, 0.50),
    ("23 M in 76 tensors", "RMSprop", {"lr": 1e-3, "momentum": 0.9}, 32, 0.50),
]
FUSED = ("AdamW", "SGD", "Adagrad")


class Contestant:
    """An optimizer with parameters of its own on the GPU."""

    def __init__(self, shapes: list, make: Callable, clips: bool) -> None:
        torch.manual_seed(0)
        self.params = [nn.Parameter(torch.randn(shape, device="cuda") * 0.02) for shape in shapes]
        for p in self.params:
            p.grad = torch.randn_like(p) * 1e-2
        self.optimizer, self.clips = make(self.params), clips
        self.times: list[float] = []

    def step(self) -> float:
        """Milliseconds."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        if self.clips:
            clip_grad_norm_(self.params, 1.0, foreach=True)
        self.optimizer.step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def race(shapes: list, rule: str, options: dict, rounds: int) -> dict[str, float]:
    """The median time of each contestant, in milliseconds."""
    kinds = {"foreach": {"foreach": True}, **({"fused": {"fused": True}} if rule in FUSED else {})}
    theirs = getattr(torch.optim, rule)
    contestants = {
        name: Contestant(shapes, lambda params, kind=kind: theirs(params, **options, **kind), clips=True)
        for name, kind in kinds.items()
    }
    ours = getattr(sf.optim, rule)
    contestants["ours"] = Contestant(shapes, lambda params: ours(params, clip_norm=1.0, **options), clips=False)
    for turn in range(rounds + 10):
        for contestant in contestants.values():
            elapsed = contestant.step()
            if turn >= 10:
                contestant.times.append(elapsed)
    assert contestants["ours"].optimizer._engine._plan.lanes
    return {name: statistics.median(contestant.times) for name, contestant in contestants.items()}


def bandwidth() -> float:
    """Bytes a second of a copy, read and written."""
    a, b = (torch.empty(2**30, dtype=torch.uint8, device="cuda") for _ in range(2))
    times: list[float] = []
    for _ in range(30):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return 2 * a.numel() / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: this benchmark needs one")
    copy = bandwidth()
    name, today = torch.cuda.get_device_name(), datetime.date.today()
    print(f"{name}, torch {torch.__version__}, {today}, {copy / 1e12:.2f} TB/s\n")
    print("| model | rule | ours, ms | foreach | fused | ours / best | bar | share of copy bandwidth |")
    print("|---|---|---|---|---|---|---|---|")
    for model, rule, options, size, bar in ROWS:
        times = race(SHAPES[model], rule, options, rounds)
        ours = times.pop("ours")
        moved = size * sum(torch.Size(shape).numel() for shape in SHAPES[model])
        share = moved / (ours / 1e3) / copy
        foreach, fused = (f"{times[kind]:.3f}" if kind in times else "none" for kind in ("foreach", "fused"))
        ratio = ours / min(times.values())
        print(f"| {model} | {rule} | {ours:.3f} | {foreach} | {fused} | {ratio:.2f} | {bar} | {share:.0%} |")


if __name__ == "__main__":
    main()
