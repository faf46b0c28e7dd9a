"""How tests choose a backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from surefoot.engine import gpu
from surefoot.engine.cpu import CpuLane


@contextmanager
def reference_only() -> Iterator[None]:
    """Inside, all runs as torch operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuLane, "available", lambda *_: False)
        yield


@contextmanager
def on_gpu() -> Iterator[torch.device]:
    """Inside, all runs as kernels for GPUs, on this device; without a GPU, through Triton's interpreter."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(gpu, "DEVICES", ["cpu"])
        yield torch.device("cpu")
