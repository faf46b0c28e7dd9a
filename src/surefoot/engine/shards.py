"""Sharded parameters: torch's DTensor (FSDP2), of which each process holds a part. What a lane must know of the whole.

A kernel moves the parts that lie here. What depends on the whole is put together by collective calls, in which all
processes must take part, in the same order: also those whose part is empty.

A DTensor can only exist where its module has been imported. It takes half a second, so it is never imported here.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Among which processes the elements of a tensor are divided.

    dims: the mesh's dimensions along which they are; along its others each process has the same
    """

    mesh: DeviceMesh
    dims: tuple[int, ...]

    def total(self, parts: Floats, largest: bool = False) -> Floats:
        """The sums (or the largest) of what each process has. A NaN of one arrives at all."""
        return self.reduce(torch.as_tensor(parts, device=self.mesh.device_type), largest).cpu().numpy()

    def reduce(self, parts: Tensor, largest: bool = False) -> Tensor:
        """The same on the device, where it is not waited for."""
        if not self.dims:
            return parts
        nan = parts.isnan()  # the largest of NaN and a number is whatever the backend takes it to be
        found = torch.stack([parts.masked_fill(nan, 0), nan.to(parts.dtype)])
        operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
        for dim in self.dims:
            torch.distributed.all_reduce(found, operation, self.mesh.get_group(dim))
        return found[0].masked_fill(found[1] > 0, math.nan)


def sharded(t: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor."""
    return type(t) is getattr(_names(), "DTensor", None)


def local(t: Tensor) -> Tensor:
    """What of it lies here: of a plain tensor all."""
    return t._local_tensor if sharded(t) else t  # pyright: ignore[reportPrivateUsage]


def description(t: DTensor) -> object:
    """The object in which it keeps mesh, placements and shape of the whole."""
    return t._spec  # pyright: ignore[reportPrivateUsage]


def partition(t: Tensor) -> tuple[Any, ...]:
    """What two tensors must have in common so that their parts lie beside each other; of plain tensors ()."""
    return (t.device_mesh, t.placements) if sharded(t) else ()


def simple(t: Tensor) -> bool:
    """Whether each element lies in one part, or in each of those that are the same, and one part lies here."""
    if not sharded(t):
        return True
    shard: Any = _names().Shard
    plain = all(placement.is_replicate() or type(placement) is shard for placement in t.placements)
    return plain and t.device_mesh.get_coordinate() is not None


def split(t: Tensor) -> Split | None:
    """Among which processes a simple tensor is divided; None: it is a plain one."""
    if not sharded(t):
        return None
    mesh = t.device_mesh
    divided = (i for i, placement in enumerate(t.placements) if not placement.is_replicate() and mesh.size(i) > 1)
    return Split(mesh, tuple(divided))


def lay_out(grad: Tensor | None, p: Tensor) -> None:
    """Let a gradient's part lie in memory as its parameter's does.

    Parts laid out otherwise would keep a parameter from a lane, but not in a process whose part has a single row and so
    but one layout: then the processes would wait for each other in different calls.
    """
    if grad is None or not (sharded(grad) and sharded(p)) or local(grad).stride() == local(p).stride():
        return
    here = local(grad)
    if here.shape == local(p).shape and here.layout == torch.strided:
        # as FSDP2 itself replaces them; the object that autograd knows stays
        grad._local_tensor = torch.empty_like(local(p), dtype=here.dtype).copy_(here)  # pyright: ignore[reportPrivateUsage]


def begin(t: Tensor) -> int:
    """The place in the whole of the first element here, for chance not to depend on the number of processes.

    Where a part is no stretch of the whole's memory, it is at least another place for each process.
    """
    found = split(t)
    if found is None or not sharded(t):
        return 0
    count, rank = [found.mesh.size(i) for i in found.dims], [found.mesh.get_local_rank(i) for i in found.dims]
    if len(count) == 1 and simple(t):
        dim = cast(int, cast(Any, t.placements[found.dims[0]]).dim)
        size, stride = t.shape[dim], t.stride(dim)
        if size * stride == t.numel():
            return min(-(-size // count[0]) * rank[0], size) * stride
    return t.numel() * sum(r * math.prod(count[i + 1 :]) for i, r in enumerate(rank))


@dataclass(frozen=True)
class Slots:
    """How far into an object the address of another lies, in bytes.

    wrapped: of a TensorImpl, its Python object
    local, spec: of a DTensor, its part and the description of the whole
    """

    wrapped: int
    local: int
    spec: int


@lru_cache(maxsize=1)
def slots(mesh: DeviceMesh, words: int) -> Slots | None:
    """Found by looking through DTensors on this mesh; None where it cannot be told.

    words: how large a TensorImpl is
    """
    make = maker(mesh)
    probes = [make(torch.empty(0)) for _ in range(8)]
    size = type(probes[0]).__basicsize__ // WORD
    part = _places(size, [(id(t), id(local(t))) for t in probes])
    spec = _places(size, [(id(t), id(description(t))) for t in probes])
    wrapped = _places(words, [(t._cdata, id(t)) for t in probes])
    if any(len(places) != 1 for places in (part, spec, wrapped)):
        return None
    return Slots(wrapped[0], part[0], spec[0])


def maker(mesh: DeviceMesh, placement: str = "Replicate") -> Callable[[Tensor], DTensor]:
    """What makes DTensors to try things out on."""
    names = _names()
    placements = [getattr(names, placement)()] * mesh.ndim
    return lambda t: names.DTensor.from_local(t, mesh, placements, run_check=False)


def _names() -> Any:
    """torch's module of sharded tensors; None where it was not imported."""
    return sys.modules.get("torch.distributed.tensor")


def _places(words: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Where in each of these objects the address of the other lies; its lowest bit may say who owns it."""
    return [
        place
        for place in range(0, WORD * words, WORD)
        if all(ctypes.c_int64.from_address(here + place).value & ~1 == there for here, there in pairs)
    ]


WORD = 8
