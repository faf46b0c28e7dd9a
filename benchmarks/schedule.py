"""What driving an optimizer's rate costs a step: ours and torch's schedulers, over an optimizer that does nothing.

    python benchmarks/schedule.py

Bar: at most 3 microseconds a step, with a float lr and one group; hooks are included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

import surefoot as sf

STEPS, ROUNDS = 10_000, 15
DRIVERS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda opt: None,
    "surefoot, cosine": lambda opt: sf.schedule.drive(opt, lr="cosine(1e6)"),
    "surefoot, warmup >> cosine": lambda opt: sf.schedule.drive(opt, lr="warmup(1000) >> cosine(1e6)"),
    "surefoot, wsd": lambda opt: sf.schedule.drive(opt, lr="wsd(1000, 2000, length=1e6)"),
    "torch, CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 10**6),
    "torch, LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: 1 - t / 1e6),
}


class Nothing(torch.optim.Optimizer):
    """An optimizer whose step does nothing."""

    def __init__(self) -> None:
        super().__init__([torch.nn.Parameter(torch.zeros(1))], {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        pass


def main() -> None:
    racing = {}
    for name, make in DRIVERS.items():
        opt = Nothing()
        racing[name] = opt, make(opt)
    times: dict[str, list[float]] = {name: [] for name in racing}
    for _ in range(ROUNDS):
        for name, (opt, driver) in racing.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                opt.step()
                if driver is not None:
                    driver.step()
            times[name].append(1e6 * (time.perf_counter() - began) / STEPS)
    empty = statistics.median(times.pop("nothing"))
    print(f"torch {torch.__version__}; an empty step takes {empty:.2f} us\n")
    print("| driver | us a step |\n|---|---|")
    for name, each in times.items():
        print(f"| {name} | {statistics.median(each) - empty:.2f} |")


if __name__ == "__main__":
    main()
