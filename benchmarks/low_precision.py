"""The time of a step in half precision against that in single: 23 M parameters in 76 tensors, AdamW, clipped.

    python benchmarks/low_precision.py

All contestants take turns in one process; ratios are of medians.
"""

from __future__ import annotations

import statistics
import time

import torch
from step import MODELS
from torch import nn

import surefoot as sf

CONTESTANTS = {  # dtype of the parameters, options
    "fp32": (torch.float32, {}),
    "bf16, states fp32": (torch.bfloat16, {"state_dtype": "fp32"}),
    "bf16, states fp32, stochastic": (torch.bfloat16, {"state_dtype": "fp32", "rounding": "stochastic"}),
    "bf16, states fp32, master weights": (torch.bfloat16, {"state_dtype": "fp32", "master_weights": True}),
    "bf16": (torch.bfloat16, {}),
    "bf16, stochastic": (torch.bfloat16, {"rounding": "stochastic"}),
    "fp16, states fp32": (torch.float16, {"state_dtype": "fp32"}),
    "fp16, states fp32, stochastic": (torch.float16, {"state_dtype": "fp32", "rounding": "stochastic"}),
    "fp32, states bf16": (torch.float32, {"state_dtype": "bf16"}),
}
ROUNDS = 25


class Contestant:
    def __init__(self, dtype: torch.dtype, options: dict) -> None:
        torch.manual_seed(0)
        self.params = [nn.Parameter((torch.randn(shape) * 0.02).to(dtype)) for shape in MODELS["23 M in 76 tensors"]]
        self.grads = [torch.randn_like(p) * 1e-2 for p in self.params]
        self.optimizer = sf.optim.AdamW(self.params, lr=1e-3, clip_norm=1.0, **options)
        self.times: list[float] = []

    def step(self) -> float:
        for p, g in zip(self.params, self.grads, strict=True):
            p.grad = g.clone()
        began = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - began


def main() -> None:
    racing = {name: Contestant(*each) for name, each in CONTESTANTS.items()}
    for contestant in racing.values():
        contestant.step()
    for _ in range(ROUNDS):
        for contestant in racing.values():
            contestant.step()
            contestant.times.append(contestant.step())
    base = statistics.median(racing["fp32"].times)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| parameters and states | ms | over fp32 |")
    print("|---|---|---|")
    for name, contestant in racing.items():
        took = statistics.median(contestant.times)
        print(f"| {name} | {1e3 * took:.2f} | {took / base:.3f} |")


if __name__ == "__main__":
    main()
