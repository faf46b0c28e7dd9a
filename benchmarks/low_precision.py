"""The time of a step in half precision against that in single: 23 M parameters in 76 tensors, AdamW, clipped.

    python benchmarks/low_precision.py

All contestants take turns in one process; ratios are of medians.
"""

from __future__ import annotations

import statistics

import torch
from step import MODELS, Contestant

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
    "fp32, states in 8 bits": (torch.float32, {"state_dtype": "8bit"}),
}
ROUNDS = 25


def contestant(dtype: torch.dtype, options: dict) -> Contestant:
    shapes = MODELS["23 M in 76 tensors"]
    return Contestant(shapes, lambda ps: sf.optim.AdamW(ps, lr=1e-3, clip_norm=1.0, **options), dtype=dtype)


def main() -> None:
    racing = {name: contestant(*each) for name, each in CONTESTANTS.items()}
    for each in racing.values():
        each.step()
    for _ in range(ROUNDS):
        for each in racing.values():
            each.step()
            each.times.append(each.step())
    base = statistics.median(racing["fp32"].times)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| parameters and states | ms | over fp32 |")
    print("|---|---|---|")
    for name, each in racing.items():
        took = statistics.median(each.times)
        print(f"| {name} | {1e3 * took:.2f} | {took / base:.3f} |")


if __name__ == "__main__":
    main()
