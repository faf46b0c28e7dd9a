"""Running a kernel on several threads: torch's own, where they can be had.

A second pool beside torch's makes forward and backward passes up to three times slower, because both keep their idle
threads spinning on the same cores. torch's pool is GNU OpenMP's on Linux; its entry is found through torch's own
library, as other packages (scikit-learn) bring a second libgomp with a pool of its own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

SERIAL = 32768  # elements below which one thread is quicker than waking another; torch's own grain size

_origin = os.getpid()


def count(elements: int) -> int:
    """How many threads to run a kernel on."""
    # OpenMP's threads do not survive a fork, and a child that calls on them waits for ever
    return 1 if elements <= SERIAL or os.getpid() != _origin else torch.get_num_threads()


def run(kernel: int, block: int, threads: int) -> None:
    """Call `kernel(block)` on this thread and on others beside it; returns when all have."""
    if threads == 1:
        _function(kernel)(block)
    elif (parallel := torchs_pool()) is not None:
        parallel(kernel, block, threads, 0)
    else:
        function = _function(kernel)
        others = [_pool(threads - 1).submit(function, block) for _ in range(threads - 1)]
        function(block)
        for other in others:
            other.result()


@cache
def torchs_pool() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel` of the OpenMP that torch runs on; None where torch has another (macOS, Windows)."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        library = ctypes.CDLL("libtorch_cpu.so", mode=ctypes.DEFAULT_MODE | os.RTLD_NOLOAD)
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


@cache
def _function(kernel: int) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)  # calling it releases the interpreter's lock


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="surefoot")
