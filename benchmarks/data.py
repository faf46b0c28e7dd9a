"""What batches of tensors in memory cost: ours, direct indexing with a permutation, and torch's DataLoader.

    python benchmarks/data.py [--rounds N]

All take turns in one process; figures are medians of whole epochs. Bar: ours at most twice direct indexing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from surefoot.train.data import Batches

Data = tuple[torch.Tensor, torch.Tensor]


def direct(data: Data, size: int) -> Callable[[int], Iterator[Any]]:
    def epoch(_: int) -> Iterator[Any]:
        x, y = data
        order = torch.randperm(len(x))
        for i in range(0, len(x), size):
            rows = order[i : i + size]
            yield x[rows], y[rows]

    return epoch


def ours(data: Data, size: int) -> Callable[[int], Iterator[Any]]:
    return Batches(data, size, 0, "training").epoch


def loader(data: Data, size: int) -> Callable[[int], Iterator[Any]]:
    made = DataLoader(TensorDataset(*data), batch_size=size, shuffle=True)
    return lambda _: iter(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds\n")
    print("| items | batch | direct, ms an epoch | ours | ours / direct | DataLoader / direct |")
    print("|---|---|---|---|---|---|")
    for items, width in ((60_000, 784), (10_000, 8)):
        for size in (32, 256):
            data = (torch.randn(items, width), torch.randint(0, 10, (items,)))
            contestants = [make(data, size) for make in (direct, ours, loader)]
            times: list[list[float]] = [[] for _ in contestants]
            for number in range(rounds + 1):
                for found, epoch in zip(times, contestants, strict=True):
                    if epoch is contestants[2] and number > 3:
                        continue  # it takes long enough to be sure sooner
                    began = time.perf_counter()
                    for _ in epoch(number):
                        pass
                    if number:
                        found.append(1e3 * (time.perf_counter() - began))
            base, own, torchs = map(statistics.median, times)
            print(
                f"| {items} x {width} | {size} | {base:.2f} | {own:.2f} | {own / base:.2f} | {torchs / base:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
