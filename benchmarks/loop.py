"""What a training loop costs: ours against the guide's hand-written one, pytorch-lightning and Accelerate.

    python benchmarks/loop.py [--rounds N] [--only mlp|cnn]

All train the same model on the same data with the same optimizer (ours, clipping by norm), batch 32, one evaluation an
epoch and a checkpoint of the best; they take turns in one process. The hand-written loop is the guide's (section 7),
with batches by a permutation of tensors in memory, the cheapest there is; the peers have the faster of that and a
DataLoader.

    mlp   64-64-64-10 on 20,000 items: microseconds a step, from the slope between two lengths, so that starting costs
          nothing; the differences from the hand-written loop are medians over rounds
    cnn   the built-in task digits-cnn: seconds for the whole training
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import surefoot as sf
from surefoot.task.load import load

BATCH = 32


def task_of(name: str) -> sf.Task:
    if name == "cnn":
        return load("digits-cnn")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 64, generator=generator)
    y = (x @ torch.randn(64, 10, generator=generator)).argmax(1)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return sf.Task(
        model=model, loss=nn.CrossEntropyLoss(), train=(x, y), val=(x[:640], y[:640]), metric=sf.metrics.accuracy
    )


def made(task: sf.Task, recipe: sf.Recipe) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = task.model()
    return model, sf.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, clip_norm=recipe.clip_norm or 1.0
    )


def in_memory(data: Any, shuffle: bool) -> Any:
    x, y = data
    order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
    for rows in order.split(BATCH):
        yield x[rows], y[rows]


def by_loader(data: Any, shuffle: bool) -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=BATCH, shuffle=shuffle)


def evaluate(task: sf.Task, model: nn.Module, batches: Any) -> tuple[float, float]:
    model.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in batches:
            outputs = model(x)
            loss += task.loss(outputs, y).item() * len(y)
            right += (outputs.argmax(1) == y).sum().item()
            count += len(y)
    return loss / count, right / count


def hand_written(
    task: sf.Task, recipe: sf.Recipe, batches: Callable[..., Any] = in_memory, torchs: bool = False, save: bool = True
) -> None:
    """The guide's template."""
    model, optimizer = made(task, recipe)
    if torchs:
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    best = float("inf")
    with tempfile.TemporaryDirectory() as dir:
        for _ in range(recipe.epochs):
            model.train()
            total, count = torch.zeros(()), 0
            for x, y in batches(task.train, True):
                optimizer.zero_grad()
                loss = task.loss(model(x), y)
                loss.backward()
                if torchs:
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.detach() * len(y)
                count += len(y)
            scheduler.step()
            value, _ = evaluate(task, model, batches(task.val, False))
            if save and value < best:
                best = value
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, Path(dir) / "best.pt")


def surefoot(task: sf.Task, recipe: sf.Recipe) -> None:
    with tempfile.TemporaryDirectory() as dir:
        sf.train(task, recipe, Path(dir) / "run", quiet=True)


def lightning(task: sf.Task, recipe: sf.Recipe, barebones: bool = False) -> None:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer = made(task, recipe)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = task.loss(self.model(batch[0]), batch[1])
            if not barebones:
                self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            outputs = self.model(batch[0])
            if not barebones:
                self.log("val/loss", task.loss(outputs, batch[1]))

        def configure_optimizers(self) -> Any:
            return [self.optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, recipe.epochs)]

    with tempfile.TemporaryDirectory() as dir:
        quiet = {} if barebones else {"default_root_dir": dir, "logger": pl.loggers.CSVLogger(dir)}
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            barebones=barebones,
            **quiet,
        )
        trainer.fit(Module(), by_loader(task.train, True), by_loader(task.val, False))


def accelerate(task: sf.Task, recipe: sf.Recipe) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = made(task, recipe)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    model, optimizer, batches, scheduler = accelerator.prepare(model, optimizer, by_loader(task.train, True), scheduler)
    best = float("inf")
    with tempfile.TemporaryDirectory() as dir:
        for _ in range(recipe.epochs):
            model.train()
            for x, y in batches:
                optimizer.zero_grad()
                loss = task.loss(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
            scheduler.step()
            value, _ = evaluate(task, model, by_loader(task.val, False))
            if value < best:
                best = value
                accelerator.save_state(dir)


LOOPS: dict[str, Callable[[sf.Task, sf.Recipe], None]] = {
    "hand-written, in memory": hand_written,
    "hand-written, DataLoader": lambda task, recipe: hand_written(task, recipe, by_loader),
    "hand-written, in memory, torch's fused AdamW": lambda task, recipe: hand_written(task, recipe, torchs=True),
    "surefoot": surefoot,
    "pytorch-lightning, barebones": lambda task, recipe: lightning(task, recipe, barebones=True),
    "pytorch-lightning": lightning,
    "Accelerate": accelerate,
}


MODULES = {
    "pytorch-lightning": "pytorch_lightning",
    "pytorch-lightning, barebones": "pytorch_lightning",
    "Accelerate": "accelerate",
}


def seconds(loop: Callable[[sf.Task, sf.Recipe], None], task: sf.Task, recipe: sf.Recipe) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loop(task, recipe)
    return time.perf_counter() - began


def available() -> dict[str, Callable[[sf.Task, sf.Recipe], None]]:
    """The loops whose packages are installed."""
    found = dict(LOOPS)
    for name in LOOPS:
        module = MODULES.get(name)
        if module is not None and importlib.util.find_spec(module) is None:
            print(f"{name}: not installed (pip install pytorch-lightning accelerate)")
            del found[name]
    return found


def mlp(rounds: int) -> None:
    """The table of microseconds a step."""
    task, loops = task_of("mlp"), available()
    steps = -(-20_000 // BATCH)
    long, short = 5, 2
    recipes = [sf.Recipe(lr=1e-3, batch_size=BATCH, clip_norm=1.0, epochs=epochs) for epochs in (short, long)]
    times: dict[str, list[float]] = {name: [] for name in loops}
    starts: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds + 1):
        for name, loop in loops.items():
            less, more = (seconds(loop, task, recipe) for recipe in recipes)
            if number:  # the first round warms up
                a_step = (more - less) / (long - short) / steps
                times[name].append(1e6 * a_step)
                starts[name].append(less - short * steps * a_step)
    print(
        "\n| loop | microseconds a step | more than hand-written in memory | to start and end, s |\n|---|---|---|---|"
    )
    base = times["hand-written, in memory"]
    for name, values in times.items():
        more = statistics.median(a - b for a, b in zip(values, base, strict=True))
        print(
            f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) | {more:+.0f} "
            f"| {statistics.median(starts[name]):.2f} |"
        )


def cnn(rounds: int) -> None:
    """The table of whole trainings."""
    task, loops = task_of("cnn"), available()
    recipe = (task.recipe or sf.Recipe()).replace(batch_size=BATCH, clip_norm=1.0)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds + 1):
        for name, loop in loops.items():
            took = seconds(loop, task, recipe)
            if number:
                times[name].append(took)
    base = times["hand-written, in memory"]
    print(f"\n| loop, digits-cnn, {recipe.epochs} epochs | seconds | over hand-written in memory |\n|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"| {name} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {ratio:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("mlp", "cnn"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    if args.only != "cnn":
        mlp(args.rounds)
    if args.only != "mlp":
        cnn(args.rounds)


if __name__ == "__main__":
    main()
