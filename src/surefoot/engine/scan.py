"""Where tensors lie, read for all of them in one call.

Before each step a lane asks hundreds of tensors for their addresses, shapes and strides. From Python that takes longer
than the step itself. So a compiled kernel reads them, through the C interface that torch promises to keep
(`aoti_torch_get_...`, torch/csrc/inductor/aoti_torch/c/shim.h) and one function of its C++ core
(`c10::TensorImpl::grad`). A tensor's Python object holds its `at::Tensor`; where in it, is found out on a tensor whose
address Python tells. Where any of this is not as expected, there is no scan, and the lane asks from Python.

One thing the interface does not tell: torch's lazy negation (`torch._neg_view`) on a gradient that is dense otherwise.
Autograd does not leave such gradients, and a plan that is made anew does see them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surefoot.engine import cache as code
from surefoot.engine.launch import Kernel

Ints = npt.NDArray[np.int64]

BLOCK = (  # of a scan: one int64 each
    "CHANGED",  # set to 1 where a tensor is not as known, or has a gradient laid out otherwise
    "TENSORS",
    "STREAMS",  # parameter, gradient, states ...
    "OBJECTS",  # int64 [streams, tensors]: where the at::Tensor lies in its Python object; unused for gradients
    "PLACE",  # how far into the object that is
    "KEPT",  # int64 [tensors]: the dicts with the states
    "KEYS",  # int64 [streams]: the states' names in them; unused for parameters and gradients
    "STEPS",  # int64 [tensors]: the Python objects of the step counts; 0 for rules that do not count
    "STEP",  # their name
    "COUNTS",  # int64 [tensors]: addresses of what they hold
    "KNOWN",  # int64 [streams, tensors]: addresses of the elements, as they were
    "FOUND",  # int64 [streams, tensors]: as they are; of gradients 0 where there is none
    "DIMS",  # int64 [tensors]
    "SHAPES",  # int64 [tensors, 2, MOST]: sizes and strides
    "DTYPE",
    "SCRATCH",  # int64 [1]
    "DATA", "DIM", "SIZES", "STRIDES", "DTYPE_OF", "LAYOUT_OF", "DEFINED", "GRAD", "ITEM",  # functions
)  # fmt: skip
MOST = 8  # dimensions; a lane with a tensor of more asks from Python

# asks(function, tensor): what a getter answers through its second argument; every getter returns 0 unless it failed
KERNEL = """
def same(block, tensor, at):
    answer = block[SCRATCH]
    if asks32(block[LAYOUT_OF], at, answer) != 0 or asks32(block[DTYPE_OF], at, answer) != block[DTYPE]:
        return False
    dims = ints(block[DIMS])[tensor]
    if asks(block[DIM], at, answer) != dims:
        return False
    sizes, strides = ints(asks(block[SIZES], at, answer)), ints(asks(block[STRIDES], at, answer))
    shape = ints(block[SHAPES] + 16 * most * tensor)
    for d in range(dims):
        if sizes[d] != shape[d] or strides[d] != shape[most + d]:
            return False
    return True

def kernel(block):
    tensors = block[TENSORS]
    objects, known, found = ints(block[OBJECTS]), ints(block[KNOWN]), ints(block[FOUND])
    for tensor in range(tensors):
        if block[STEPS]:
            step = ints(block[STEPS])[tensor]
            now = item(block[ITEM], ints(block[KEPT])[tensor], block[STEP])
            if now != step or asks(block[DATA], step + block[PLACE], block[SCRATCH]) != ints(block[COUNTS])[tensor]:
                block[CHANGED] = 1
                return
        for stream in range(block[STREAMS]):
            i = stream * tensors + tensor
            at = objects[i]
            if stream == 1:
                at = returned(block[GRAD], ints(objects[tensor])[0])
                if asks8(block[DEFINED], at, block[SCRATCH]) == 0:
                    found[i] = 0
                    continue
            right = same(block, tensor, at)
            if stream > 1:
                now = item(block[ITEM], ints(block[KEPT])[tensor], ints(block[KEYS])[stream])
                right = right and now == at - block[PLACE]
            if right:
                found[i] = asks(block[DATA], at, block[SCRATCH])
                right = stream == 1 or found[i] == known[i]
            if not right:
                block[CHANGED] = 1
                return
            if found[i] == 0:  # an empty gradient is one, too
                found[i] = 1
"""


STEP = "step"
GETTERS = {
    "DATA": "aoti_torch_get_data_ptr",
    "DIM": "aoti_torch_get_dim",
    "SIZES": "aoti_torch_get_sizes",
    "STRIDES": "aoti_torch_get_strides",
    "DTYPE_OF": "aoti_torch_get_dtype",
    "LAYOUT_OF": "aoti_torch_get_layout",
    "DEFINED": "aoti_torch_is_defined",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
GRAD = "_ZNK3c1010TensorImpl4gradEv"  # const at::Tensor& c10::TensorImpl::grad() const


class Scan:
    """The addresses of parameters, their gradients and their states, as long as nothing but the gradients moves.

    Args:
        params: the parameters
        kept: the state of each
        names: the states to look at
        steps: the step counts; empty: none are kept
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        kept: Sequence[dict[str, Any]],
        names: Sequence[str],
        steps: Sequence[Tensor],
        interface: Interface,
    ) -> None:
        self._held = [*params], [*kept], [*names], [*steps], STEP  # so that the objects' addresses stay theirs
        rows = [params, params, *([state[name] for state in kept] for name in names)]  # the second is not read
        self._run = interface.run
        self._known = np.array([[t.data_ptr() for t in row] for row in rows], np.int64)
        shapes = np.zeros((len(params), 2, MOST), np.int64)
        for i, p in enumerate(params):
            shapes[i, 0, : p.dim()], shapes[i, 1, : p.dim()] = p.shape, p.stride()
        self._tables = {
            "OBJECTS": np.array([[id(t) + interface.place for t in row] for row in rows], np.int64),
            "KEPT": np.array([id(state) for state in kept], np.int64),
            "KEYS": np.array([0, 0, *(id(name) for name in names)], np.int64),
            "KNOWN": self._known,
            "DIMS": np.array([p.dim() for p in params], np.int64),
            "SHAPES": shapes,
            "SCRATCH": np.zeros(1, np.int64),
        }
        if steps:
            self._tables["STEPS"] = np.array([id(step) for step in steps], np.int64)
            self._tables["COUNTS"] = np.array([step.data_ptr() for step in steps], np.int64)
        values = {name: table.ctypes.data for name, table in self._tables.items()}
        values |= {"TENSORS": len(params), "STREAMS": len(rows), "PLACE": interface.place}
        values |= {"STEP": id(STEP), "DTYPE": interface.dtypes[params[0].dtype]}
        values |= interface.functions
        self._block = np.array([values.get(name, 0) for name in BLOCK], np.int64)

    def __call__(self) -> Ints | None:
        """The addresses, int64 [streams, tensors], gradients second (0 where there is none); None: look closer."""
        found = np.empty_like(self._known)
        self._block[BLOCK.index("CHANGED")] = 0
        self._block[BLOCK.index("FOUND")] = found.ctypes.data
        self._run(self._block.ctypes.data)
        return None if self._block[BLOCK.index("CHANGED")] else found


@dataclass(frozen=True)
class Interface:
    """What a scan calls: the kernel, the place of the at::Tensor in its object, torch's functions and dtype codes."""

    run: Callable[[int], None]
    place: int
    functions: dict[str, int]
    dtypes: dict[torch.dtype, int]


def scan(
    params: Sequence[Tensor], kept: Sequence[dict[str, Any]], names: Sequence[str], steps: Sequence[Tensor]
) -> Scan | None:
    """A scan of these tensors; None where it cannot be had."""
    known = interface()
    return None if known is None or any(p.dim() > MOST for p in params) else Scan(params, kept, names, steps, known)


@cache
def interface() -> Interface | None:
    """What this torch offers, tried out; None where it is not what a scan needs."""
    address = code.address(Kernel("scan", "int64"))
    if address is None or not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        torch_cpu, c10 = (
            ctypes.CDLL(f"lib{name}.so", ctypes.DEFAULT_MODE | os.RTLD_NOLOAD) for name in ("torch_cpu", "c10")
        )
        functions = {name: _address(torch_cpu, symbol) for name, symbol in GETTERS.items()}
        functions["GRAD"] = _address(c10, GRAD)
        functions["ITEM"] = _address(ctypes.pythonapi, "PyDict_GetItem")
        dtypes = {each: int(getattr(torch_cpu, f"aoti_torch_dtype_{name}")()) for name, each in DTYPES.items()}
    except (OSError, AttributeError):
        return None
    p = torch.nn.Parameter(torch.empty(2, 3).t())
    words = range(ctypes.sizeof(ctypes.c_void_p) * 2, type(p).__basicsize__, 8)
    places = [place for place in words if ctypes.c_int64.from_address(id(p) + place).value == p._cdata]
    if len(places) != 1:
        return None
    found = Interface(ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(address), places[0], functions, dtypes)
    return found if _works(found, p) else None


def _works(found: Interface, p: Tensor) -> bool:
    """Whether a scan says what Python says."""
    s = torch.empty_like(p)
    kept = {"s": s}
    tried = Scan([p], [kept], ["s"], [], found)
    without = tried()
    p.grad = g = torch.empty_like(p)
    with_one = tried()
    p.grad = g.contiguous()
    right = [[[t.data_ptr() if t is not None else 0] for t in row] for row in ((p, None, s), (p, g, s))]
    other_layout = tried()
    p.grad = g
    kept["s"] = torch.empty_like(p)
    seen = [x is not None and x.tolist() for x in (without, with_one)]
    return seen == right and other_layout is None and tried() is None


def _address(library: ctypes.CDLL, symbol: str) -> int:
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    assert address is not None
    return address
