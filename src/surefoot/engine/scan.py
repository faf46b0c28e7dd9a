"""Where gradients lie, read for all parameters in one call.

Backward makes new gradients, so that before each step hundreds of them must be asked for their addresses, shapes and
strides. From Python that takes longer than the step itself. So a compiled kernel reads them, through the C interface
that torch promises to keep (`aoti_torch_get_...`, torch/csrc/inductor/aoti_torch/c/shim.h) and one function of its C++
core (`c10::TensorImpl::grad`). Where any of this is not as expected, there is no scan, and the lane asks from Python.

One thing the interface does not tell: torch's lazy negation (`torch._neg_view`) on a gradient that is dense otherwise.
Autograd does not leave such gradients, and a plan that is made anew does see them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surefoot.engine import cache as code
from surefoot.engine.launch import Kernel, address_of, block

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

def kernel(block):
    params, found = ints(block[PARAMS]), ints(block[FOUND])
    for tensor in range(block[TENSORS]):  # ahead of the next loop: a step's streams have emptied the caches
        gradient = ints(returned(block[GRAD], params[tensor]))[0]
        prefetch(gradient)
        prefetch(gradient + 64)
        prefetch(gradient + 128)
    for tensor in range(block[TENSORS]):
        at = returned(block[GRAD], params[tensor])
        if asks8(block[DEFINED], at, block[SCRATCH]) == 0:
            found[tensor] = 0
            block[MISSING] += 1
        elif alike(block, tensor, at):
            data = asks(block[DATA], at, block[SCRATCH])
            found[tensor] = data if data != 0 else 1  # an empty gradient is one, too
        else:
            block[CHANGED] = 1
            return
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
        params: the parameters, of one dtype
        found: int64 [tensors], to write the addresses into: 0 where there is no gradient
    """

    def __init__(self, params: Sequence[Tensor], found: Ints, interface: Interface) -> None:
        shapes = np.zeros((len(params), 2, MOST), np.int64)
        for i, p in enumerate(params):
            shapes[i, 0, : p.dim()], shapes[i, 1, : p.dim()] = p.shape, p.stride()
        self._tables = {
            "PARAMS": np.array([p._cdata for p in params], np.int64),
            "FOUND": found,
            "DIMS": np.array([p.dim() for p in params], np.int64),
            "SHAPES": shapes,
            "SCRATCH": np.zeros(1, np.int64),
        }
        dtype = interface.dtypes[params[0].dtype]
        self._block = block(BLOCK, self._tables, TENSORS=len(params), DTYPE=dtype, **interface.functions)
        self._address = address_of(self._block)
        self._run = interface.run

    def __call__(self) -> int:
        """Find the addresses. Returns how many parameters have no gradient; -1: one is laid out otherwise."""
        self._block[:2] = 0
        self._run(self._address)
        changed, missing = self._block[:2].tolist()
        return -1 if changed else missing


@dataclass(frozen=True)
class Interface:
    """What a scan calls: the kernel, torch's functions, and torch's codes of dtypes."""

    run: Callable[[int], None]
    functions: dict[str, int]
    dtypes: dict[torch.dtype, int]


def scan(params: Sequence[Tensor], found: Ints) -> Scan | None:
    """A scan of these parameters; None where it cannot be had."""
    known = interface()
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


def _address(library: ctypes.CDLL, symbol: str) -> int:
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    assert address is not None
    return address
