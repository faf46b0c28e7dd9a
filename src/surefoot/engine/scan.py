"""Where gradients lie, read for all parameters in one call.

Backward makes new gradients, so that before each step hundreds of them must be asked for their addresses, shapes and
strides. From Python that takes longer than the step itself. So a compiled kernel reads them, through the C interface
that torch promises to keep (`aoti_torch_get_...`, torch/csrc/inductor/aoti_torch/c/shim.h) and one function of its C++
core (`c10::TensorImpl::grad`). Where any of this is not as expected, there is no scan, and the lane asks from Python.

The gradient of a sharded parameter is sharded, too. Its TensorImpl leads to the Python object, that to the local part
and this to its TensorImpl. That the whole is divided alike is known while its description is an object that was looked
at before: FSDP2 gives gradients that of their parameter, and torch's operations keep theirs.

One thing the interface does not tell: torch's lazy negation (`torch._neg_view`) on a gradient that is dense otherwise.
Autograd does not leave such gradients, and a plan that is made anew does see them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surefoot.engine import cache as code
from surefoot.engine.launch import Kernel, address_of, block
from surefoot.engine.shards import description, local, maker, partition, sharded
from surefoot.engine.witness import sharded_layout

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

Ints = npt.NDArray[np.int64]

BLOCK = (  # of the kernel: one int64 each
    "CHANGED",  # set to 1 where a gradient is laid out otherwise than its parameter
    "MISSING",  # how many parameters have no gradient
    "TENSORS",
    "PARAMS",  # int64 [tensors]: addresses of the parameters' TensorImpl
    "FOUND",  # int64 [tensors]: addresses of the gradients' elements; 0 where there is none
    "DIMS",  # int64 [tensors]
    "SHAPES",  # int64 [tensors, 2, MOST]: sizes and strides
    "DTYPE",
    "SCRATCH",  # int64 [1]
    "DATA", "DIM", "SIZES", "STRIDES", "DTYPE_OF", "LAYOUT_OF", "DEFINED", "GRAD",  # functions
    "WRAPPER",  # the type of sharded gradients; 0: they are plain
    "PLAIN",  # the type of their parts
    "SPECS",  # int64 [tensors]: the descriptions of the whole that are known to be right
    "OBJECT", "LOCAL", "SPEC", "PLACE",  # how far into TensorImpl, wrapper, wrapper, part to look, in bytes
)  # fmt: skip
MOST = 8  # dimensions; a lane with a tensor of more asks from Python

# asks(function, tensor): what a getter answers through its second argument; every getter returns 0 unless it failed
KERNEL = f"""
def alike(block, tensor, at):
    answer = block[SCRATCH]
    if asks32(block[LAYOUT_OF], at, answer) != 0 or asks32(block[DTYPE_OF], at, answer) != block[DTYPE]:
        return False
    dims = ints(block[DIMS])[tensor]
    if asks(block[DIM], at, answer) != dims:
        return False
    sizes, strides = ints(asks(block[SIZES], at, answer)), ints(asks(block[STRIDES], at, answer))
    shape = ints(block[SHAPES] + {16 * MOST} * tensor)
    for d in range(dims):
        if sizes[d] != shape[d] or (strides[d] != shape[{MOST} + d] and sizes[d] != 1):
            return False
    return True

def unwrap(block, found):  # in stages, each of which fetches what the next reads
    for tensor in range(block[TENSORS]):
        if found[tensor] != 0:
            found[tensor] = ints(ints(found[tensor])[0] + block[OBJECT])[0] & -2
            prefetch(found[tensor])
            prefetch(found[tensor] + block[SPEC])
            if found[tensor] == 0:
                return False
    for tensor in range(block[TENSORS]):
        wrapper = found[tensor]
        if wrapper != 0:
            if ints(wrapper)[1] != block[WRAPPER] or ints(wrapper + block[SPEC])[0] != ints(block[SPECS])[tensor]:
                return False
            found[tensor] = ints(wrapper + block[LOCAL])[0]
            prefetch(found[tensor])
            if found[tensor] == 0:
                return False
    for tensor in range(block[TENSORS]):
        if found[tensor] != 0:
            if ints(found[tensor])[1] != block[PLAIN]:
                return False
            found[tensor] += block[PLACE]
            fetch(found[tensor])
    return True

def fetch(at):
    tensor = ints(at)[0]
    prefetch(tensor)
    prefetch(tensor + 64)
    prefetch(tensor + 128)

def kernel(block):
    params, found = ints(block[PARAMS]), ints(block[FOUND])
    for tensor in range(block[TENSORS]):  # ahead of the next loop: a step's streams have emptied the caches
        found[tensor] = returned(block[GRAD], params[tensor])
        if asks8(block[DEFINED], found[tensor], block[SCRATCH]) == 0:
            found[tensor] = 0
            block[MISSING] += 1
        else:
            fetch(found[tensor])
    if block[WRAPPER] != 0 and not unwrap(block, found):
        block[CHANGED] = 1
        return
    for tensor in range(block[TENSORS]):
        if found[tensor] != 0:
            if not alike(block, tensor, found[tensor]):
                block[CHANGED] = 1
                return
            data = asks(block[DATA], found[tensor], block[SCRATCH])
            found[tensor] = data if data != 0 else 1  # an empty gradient is one, too
"""

GETTERS = {
    "DATA": "aoti_torch_get_data_ptr",
    "DIM": "aoti_torch_get_dim",
    "SIZES": "aoti_torch_get_sizes",
    "STRIDES": "aoti_torch_get_strides",
    "DTYPE_OF": "aoti_torch_get_dtype",
    "LAYOUT_OF": "aoti_torch_get_layout",
    "DEFINED": "aoti_torch_is_defined",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
GRAD = "_ZNK3c1010TensorImpl4gradEv"  # const at::Tensor& c10::TensorImpl::grad() const


class Scan:
    """The addresses of the gradients of parameters that are what and where they were.

    Args:
        params: the parameters, of one dtype, all plain or all sharded
        found: int64 [tensors], to write the addresses into: 0 where there is no gradient
    """

    def __init__(self, params: Sequence[Tensor], found: Ints, interface: Interface) -> None:
        here = [local(p) for p in params]
        shapes = np.zeros((len(params), 2, MOST), np.int64)
        for i, p in enumerate(here):
            shapes[i, 0, : p.dim()], shapes[i, 1, : p.dim()] = p.shape, p.stride()
        self._tables = {
            "PARAMS": np.array([p._cdata for p in params], np.int64),
            "FOUND": found,
            "DIMS": np.array([p.dim() for p in here], np.int64),
            "SHAPES": shapes,
            "SCRATCH": np.zeros(1, np.int64),
            "SPECS": np.zeros(len(params), np.int64),
        }
        # held, so that no other object gets the address of one
        self._params, self._specs = params, [description(p) if sharded(p) else None for p in params]
        self._tables["SPECS"][:] = [id(spec) for spec in self._specs]
        dtype = interface.dtypes[params[0].dtype]
        wrapper = id(type(params[0])) if sharded(params[0]) else 0
        self._block = block(
            BLOCK, self._tables, TENSORS=len(params), DTYPE=dtype, WRAPPER=wrapper, **interface.functions
        )
        self._address = address_of(self._block)
        self._run = interface.run

    def __call__(self) -> int:
        """Find the addresses. Returns how many parameters have no gradient; -1: one is laid out otherwise."""
        self._block[:2] = 0
        self._run(self._address)
        changed, missing = self._block[:2].tolist()
        if changed:
            return self() if self._recognises() else -1
        return missing

    def _recognises(self) -> bool:
        """Whether gradients have descriptions that are new, but say the same: these are known then."""
        new = False
        for i, (p, spec) in enumerate(zip(self._params, self._specs, strict=True)):
            grad = p.grad
            if grad is not None and sharded(grad) and description(grad) is not spec:
                if grad.shape != p.shape or partition(grad) != partition(p):
                    return False
                self._specs[i], new = description(grad), True
                self._tables["SPECS"][i] = id(self._specs[i])
        return new


@dataclass(frozen=True)
class Interface:
    """What a scan calls: the kernel, torch's functions, and torch's codes of dtypes."""

    run: Callable[[int], None]
    functions: dict[str, int]  # by their names in BLOCK, as other numbers are
    dtypes: dict[torch.dtype, int]


def scan(params: Sequence[Tensor], found: Ints) -> Scan | None:
    """A scan of these parameters; None where it cannot be had."""
    known = sharded_interface(params[0].device_mesh) if sharded(params[0]) else interface()
    return None if known is None or any(p.dim() > MOST for p in params) else Scan(params, found, known)


@cache
def interface() -> Interface | None:
    """What this torch offers, tried out; None where it is not what a scan needs."""
    address = code.address(Kernel("scan"))
    if address is None or not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        torch_cpu, c10 = (
            ctypes.CDLL(f"lib{name}.so", ctypes.DEFAULT_MODE | os.RTLD_NOLOAD) for name in ("torch_cpu", "c10")
        )
        functions = {name: _address(torch_cpu, symbol) for name, symbol in GETTERS.items()}
        functions["GRAD"] = _address(c10, GRAD)
        dtypes = {each: int(getattr(torch_cpu, f"aoti_torch_dtype_{name}")()) for name, each in DTYPES.items()}
    except (OSError, AttributeError):
        return None
    found = Interface(ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address), functions, dtypes)
    return found if _works(found) else None


@lru_cache(maxsize=1)
def sharded_interface(mesh: DeviceMesh) -> Interface | None:
    """The same for sharded parameters, tried out with some on this mesh."""
    plain, known = interface(), sharded_layout(mesh)
    if plain is None or known is None or known.slots is None:
        return None
    places = {"OBJECT": known.slots.wrapped, "LOCAL": known.slots.local, "SPEC": known.slots.spec, "PLACE": known.place}
    found = replace(plain, functions={**plain.functions, **places, "PLAIN": id(Tensor)})
    return found if _works_with_shards(found, mesh) else None


def _works(interface: Interface) -> bool:
    """Whether a scan says what Python says."""
    p = torch.nn.Parameter(torch.empty(2, 3).t())
    found = np.zeros(1, np.int64)
    tried = Scan([p], found, interface)
    without = tried(), int(found[0])
    p.grad = torch.empty_like(p)
    with_one = tried(), int(found[0])
    right = p.grad.data_ptr()
    p.grad = p.grad.contiguous()
    return (without, with_one, tried()) == ((1, 0), (0, right), -1)


def _works_with_shards(interface: Interface, mesh: DeviceMesh) -> bool:
    """Whether it does so for a sharded parameter, too, whoever holds the gradient."""
    make = maker(mesh)
    p = make(torch.empty(2, 3)).requires_grad_()
    found = np.zeros(1, np.int64)
    tried = Scan([p], found, interface)

    def said(part: Tensor, change: Callable[[DTensor], object] = lambda grad: None) -> tuple[int, int]:
        p.grad = grad = make(part)
        change(grad)
        del grad
        return tried(), int(found[0])

    part, other = torch.empty(2, 3), torch.empty(2, 3)
    held: list[DTensor] = []
    without = tried(), int(found[0])
    right = [said(part), said(part, held.append), said(part, lambda grad: setattr(grad, "_local_tensor", other))]
    changes: list[Callable[[DTensor], object]] = [
        lambda grad: setattr(p, "grad", maker(mesh, "Partial")(part)),
        lambda grad: setattr(grad, "_local_tensor", torch.nn.Parameter(other)),
        lambda grad: setattr(grad, "_local_tensor", other.double()),
        lambda grad: setattr(grad, "_local_tensor", torch.empty(3, 2)),
        lambda grad: setattr(grad, "_local_tensor", torch.empty(3, 2).t()),
    ]
    wrong = [said(part, change)[0] for change in changes]
    expected = [(0, t.data_ptr()) for t in (part, part, other)]
    return without == (1, 0) and right == expected and set(wrong) == {-1}


def _address(library: ctypes.CDLL, symbol: str) -> int:
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    assert address is not None
    return address
