"""The Python time of a step on sharded parameters (DTensor, as FSDP2 makes them) beside that on plain ones.

    python benchmarks/sharded.py

One process holds the only shard, so that both move the same elements. They take turns, on one thread. Each step has
other gradients than the last, made beforehand: making DTensors in Python would leave the caches of one side emptier
than those of the other. Figures are medians, of steps that find caches as the last one left them, and of steps before
which they were emptied, as by a backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import surefoot as sf

TRAFFIC = torch.zeros(2**22)  # a backward pass leaves the caches of neither what they were
SHAPES = [(16, 16), (16,), (16,), (16,)] * 100


class Contestant:
    """An optimizer of 400 small tensors, and how their gradients are made."""

    def __init__(self, params: list, backward, make=sf.optim.AdamW) -> None:
        self.params = [nn.Parameter(p) for p in params]
        self.gradients = [[backward(p) for p in self.params] for _ in range(2)]
        self.optimizer = make(self.params)
        self.times: dict[bool, list[float]] = {False: [], True: []}

    def step(self, emptied: bool) -> None:
        self.gradients.reverse()
        for p, grad in zip(self.params, self.gradients[0], strict=True):
            p.grad = grad
        if emptied:
            TRAFFIC.add_(1)
        began = time.perf_counter()
        self.optimizer.step()
        self.times[emptied].append(time.perf_counter() - began)


def contestants(mesh) -> dict[str, Contestant]:
    """Plain tensors, and the ways in which sharded ones get their gradients."""

    def split(t: torch.Tensor) -> DTensor:
        return DTensor.from_local(t, mesh, [Shard(0)], run_check=False)

    def fsdp(p: torch.Tensor) -> DTensor:  # as FSDP2's to_sharded_dtensor
        return DTensor(torch.randn_like(p.to_local()), p._spec, requires_grad=False)

    plain = [torch.randn(shape) for shape in SHAPES]
    found = {
        "plain": Contestant([t.clone() for t in plain], torch.randn_like),
        "sharded, gradients as FSDP2 makes them": Contestant([split(t.clone()) for t in plain], fsdp),
        "sharded, gradients as torch's operations make them": Contestant(
            [split(t.clone()) for t in plain], lambda p: p.detach() * 0.5
        ),
        "sharded, each gradient with a new description": Contestant(
            [split(t.clone()) for t in plain], lambda p: split(torch.randn_like(p.to_local()))
        ),
    }
    for way in ("foreach", "fused"):
        make = lambda ps, way=way: torch.optim.AdamW(ps, **{way: True})  # noqa: E731
        found[f"sharded, torch {way}"] = Contestant([split(t.clone()) for t in plain], fsdp, make)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)  # what is to be seen is Python's share
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        racing = contestants(init_device_mesh("cpu", (1,)))
        for _ in range(args.rounds):
            for contestant in racing.values():
                for turn in range(8):
                    contestant.step(emptied=turn >= 4)
        dist.destroy_process_group()
    print("| 400 tensors, AdamW | in caches, ms | over plain | emptied, ms | over plain |\n|---|---|---|---|---|")
    for name, each in racing.items():
        row = [name]
        for emptied in (False, True):
            median, plain = (statistics.median(one.times[emptied][8:]) for one in (each, racing["plain"]))
            row += [f"{1e3 * median:.3f}", f"{median / plain:.2f}"]
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
