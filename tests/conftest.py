"""What all tests share."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs run as Python; read when Triton is imported


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    """Tests run side by side: one torch thread each, and the same random numbers each time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
