"""What `sf.watch` costs: time in its hooks, and watched steps against unwatched ones.

    python benchmarks/watch.py [--steps N] [--only mlp|cnn|gpt] [--threads N]

    mlp   400 small tensors (200 layers of 16 units), batch 64
    cnn, gpt   the built-in tasks digits-cnn and stdlib-gpt, their own batches

Two trainings of the same start take turns, step by step, in an order that alternates. `own` is the mean time a step
spent in the watch's hooks (import and close left out); `ratio`: all time of the watched steps over all of the others'.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import surefoot as sf
from surefoot.task.load import load

HOOKS: tuple[tuple[type, str], ...] = (
    (nn.Module, "register_forward_pre_hook"),
    (nn.Module, "register_forward_hook"),
    (torch.optim.Optimizer, "register_step_pre_hook"),
    (torch.optim.Optimizer, "register_step_post_hook"),
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "register_post_accumulate_grad_hook"),
)


class Clock:
    """Adds up the time that is spent in hooks; those set within another one's time count once."""

    def __init__(self) -> None:
        self.total, self._depth = 0.0, 0

    def timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began, self._depth = time.perf_counter(), self._depth + 1
            try:
                return hook(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.total += time.perf_counter() - began

        return run

    def install(self) -> None:
        for owner, name in HOOKS:
            setting = getattr(owner, name)

            def timed(of: Any, hook: Any, *args: Any, setting: Any = setting, **kwargs: Any) -> Any:
                return setting(of, self.timed(hook), *args, **kwargs)

            setattr(owner, name, timed)


def mlp() -> sf.Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 16, generator=generator)

    def model() -> nn.Module:
        return nn.Sequential(*(part for _ in range(200) for part in (nn.Linear(16, 16), nn.Tanh())), nn.Linear(16, 4))

    y = x[:, :4].argmax(1)
    return sf.Task(model=model, loss=nn.CrossEntropyLoss(), train=(x, y), recipe=sf.Recipe(batch_size=64))


def batches(task: sf.Task, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    x, y = (getattr(task.train, "tensors", None) or task.train)[:2]
    while True:
        for rows in torch.randperm(len(x)).split(size):
            if len(rows) == size:
                yield x[rows], y[rows]


def one_step(task: sf.Task, watched: bool, ours: bool) -> Callable[[Any, Any], None]:
    torch.manual_seed(0)
    model, criterion = task.model(), task.loss
    optimizer = (sf.optim if ours else torch.optim).AdamW(model.parameters(), lr=1e-3)
    watch: Any = None
    module = criterion if isinstance(criterion, nn.Module) else None
    if watched:
        watch = sf.watch(model, optimizer, loss=module, quiet=True)

    def step(x: Any, y: Any) -> None:
        optimizer.zero_grad()
        out = model(x)
        loss: Any = criterion(out, y)
        if isinstance(loss, tuple):
            loss = loss[0] / loss[1]
        if watch is not None and module is None:
            watch.observe(loss=loss, outputs=out, targets=y, inputs=x)
        loss.backward()
        optimizer.step()

    return step


def measured(task: sf.Task, ours: bool, steps: int, clock: Clock) -> tuple[float, float, float]:
    """Microseconds a step without the watch and in it; watched time over unwatched."""
    size = task.recipe.batch_size if task.recipe is not None else 32
    ways = [one_step(task, watched, ours) for watched in (False, True)]
    spent, rows = [0.0, 0.0], batches(task, size)
    for _ in range(5):
        ways[0](*next(rows))
    clock.total = 0.0
    for i in range(steps):
        batch = next(rows)
        for way in (0, 1) if i % 2 else (1, 0):
            began = time.perf_counter()
            ways[way](*batch)
            spent[way] += time.perf_counter() - began
    return spent[0] / steps * 1e6, clock.total / steps * 1e6, spent[1] / spent[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", choices=("mlp", "cnn", "gpt"))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    tasks = {"mlp": mlp, "cnn": lambda: load("digits-cnn"), "gpt": lambda: load("stdlib-gpt")}
    clock = Clock()
    clock.install()
    print(f"{args.steps} steps, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| model | optimizer | a step, us | own, us | own / step | ratio |\n|---|---|---|---|---|---|")
    for name, task in tasks.items():
        if args.only in (None, name):
            for ours in (True, False):
                step, own, ratio = measured(task(), ours, args.steps, clock)
                kind = "ours" if ours else "torch"
                print(f"| {name} | {kind} | {step:.0f} | {own:.0f} | {own / step:.2%} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
