"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs run as Python; read when Triton is imported

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    """Tests run side by side: one torch thread each, and the same random numbers each time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
