"""How long saving a checkpoint keeps the training waiting, against torch.save and the safetensors library.

    python benchmarks/checkpoint.py [--parameters N] [--rounds N] [--dir DIR]

Weights of N parameters in fp32, in matrices of about a million. Each round does every kind once, in turn, with nothing
else under way. torch.save and save_file return when the bytes are in the page cache; ours also wait for the disk
(fsync), except in the background, where the rest is done after the call returned. Bar: from the second asynchronous
save on at most 0.25 of torch.save; on disk at most 1.01 of the tensors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import surefoot as sf
from surefoot.record import Run


def weights_of(parameters: int) -> dict[str, torch.Tensor]:
    """That many numbers in tensors of a usual size."""
    each = min(parameters, 1 << 20)
    sizes = [each] * (parameters // each) + ([parameters % each] if parameters % each else [])
    return {f"layer{i}.weight": torch.randn(size) for i, size in enumerate(sizes)}


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def synced(path: Path) -> None:
    """Push what torch wrote to the disk, outside of its time, so that the next one finds the disk idle."""
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    os.close(handle)


def measure(weights: dict[str, torch.Tensor], folder: Path, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each save by kind, and bytes on disk of a checkpoint for each byte of tensors."""
    task = sf.Task(model=lambda: torch.nn.Linear(1, 1), loss=torch.nn.MSELoss(), train=[], name="benchmark")
    ours, background = (Run.create(folder / name, task, sf.Recipe()) for name in ("ours", "background"))
    step = 0

    def save(run: Run, wait: bool) -> None:
        nonlocal step
        step += 1
        run.save(weights, {"step": step}, 0, step, {}, best=False, wait=wait)

    kinds: dict[str, Callable[[], object]] = {
        "torch.save": lambda: torch.save(weights, folder / "torch.pt"),
        "safetensors save_file": lambda: save_file(weights, folder / "library.safetensors"),
        "ours, wait=True": lambda: save(ours, wait=True),
        "ours, wait=False": lambda: save(background, wait=False),
    }
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    took["ours, wait=False: until it is on the disk"] = []
    for _ in range(rounds):
        for kind, work in kinds.items():
            began = time.perf_counter()
            took[kind].append(seconds(work))
            if work is kinds["ours, wait=False"]:
                background.settle()
                took["ours, wait=False: until it is on the disk"].append(time.perf_counter() - began)
            for left in (folder / "torch.pt", folder / "library.safetensors"):
                if left.exists():
                    synced(left)
                    left.unlink()
    last = background.last
    assert last is not None
    on_disk = sum(path.stat().st_size for path in last.path.iterdir())
    return took, on_disk / sum(t.nbytes for t in weights.values())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parameters", type=int, default=100_000_000)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--dir", type=Path, help="on which disk (default: that of temporary files)")
    args = options.parse_args()
    if args.rounds < 2:
        options.error("--rounds must be 2 or more: the first save in the background is told apart from the others")
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        took, share = measure(weights_of(args.parameters), Path(folder), args.rounds)
    in_turn = ", ".join(f"{second * 1e3:.0f}" for second in took["ours, wait=False"])
    first = took["ours, wait=False"].pop(0)
    took = {"torch.save": took.pop("torch.save"), "ours, wait=False, the first": [first], **took}
    base = statistics.median(took["torch.save"])
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.parameters:,} parameters in fp32")
    print("| kind | blocked, ms: median (least to most) | of torch.save |")
    print("|---|---|---|")
    for kind, times in took.items():
        middle = statistics.median(times)
        print(
            f"| {kind} | {middle * 1e3:.1f} ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}) | {middle / base:.2f} |"
        )
    print(f"\nours, wait=False, one after the other, ms: {in_turn}")
    print(f"bytes on disk for each byte of tensors: {share:.4f}")


if __name__ == "__main__":
    main()
