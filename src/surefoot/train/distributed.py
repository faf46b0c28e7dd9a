"""Many processes, one training: torchrun's environment, DDP and FSDP2."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from surefoot.errors import UserError, unknown

KINDS = ("ddp", "fsdp")
TIMEOUT = timedelta(seconds=60)  # how long the others wait for one that is silent
# DDP keeps gloo's threads alive after their group is destroyed. One that lets go of its last tensor while Python is
# shutting down aborts the process (pytorch#179291), so they get the time to let go before.
LETTING_GO = 0.2  # seconds


@dataclass(frozen=True)
class Processes:
    """The processes that train together. One alone is the usual case.

    kind: "ddp" (each has the whole model), "fsdp" (each has its share of it), "" for one alone
    rank, world: this process's number, and how many there are
    """

    kind: str = ""
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether it is this process that writes and shows."""
        return self.rank == 0

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as it computes in all processes; its parameters' names stay."""
        if self.kind == "ddp":
            return nn.parallel.DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)
        if self.kind == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(device.type, (self.world,))
            for child in model.children():  # what has layers is sharded layer by layer
                for part in child if isinstance(child, nn.ModuleList | nn.Sequential) else (child,):
                    if any(True for _ in part.parameters()):
                        fully_shard(part, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model

    def exchanging(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged in the last backward pass of a step only."""
        if self.kind == "ddp" and not last:
            return cast("AbstractContextManager[Any]", cast(Any, model).no_sync())
        if self.kind == "fsdp":
            cast(Any, model).set_requires_gradient_sync(last)
        return nullcontext()

    def sums(self, *values: Any) -> list[Any]:
        """Each value summed over all processes."""
        if self.world == 1:
            return list(values)
        device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
        together = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device).reshape(()) for v in values])
        dist.all_reduce(together)
        return list(together)

    def agreed(self, flag: bool) -> bool:
        """Whether any of the processes says so."""
        return flag if self.world == 1 else bool(self.sums(float(flag))[0])

    def gathered(self, value: Any) -> list[Any]:
        """Each process's value, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def lost_contact(error: Exception) -> bool:
    """Whether an error says that another process is gone, or silent for too long."""
    words = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return dist.is_available() and dist.is_initialized() and any(each in str(error) for each in words)


@contextmanager
def joined(kind: str | None, device: torch.device) -> Generator[Processes]:
    """Join the processes that torchrun has started.

    Raises:
        UserError: for an unknown kind, and where torchrun has started none
    """
    if kind is None:
        yield Processes()
        return
    if kind not in KINDS:
        raise unknown("way to train in many processes", kind, KINDS)
    if "RANK" not in os.environ:
        raise UserError(f"distributed={kind!r} needs torchrun: torchrun --nproc-per-node 2 -m surefoot train TASK ...")
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(kind, dist.get_rank(), dist.get_world_size())
    finally:
        if own:
            gloo = dist.get_backend() == "gloo"
            dist.destroy_process_group()
            if gloo:
                time.sleep(LETTING_GO)


def local(device: str | torch.device | None) -> str | torch.device | None:
    """This process's GPU, where torchrun has started one process for each."""
    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        index = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return device
