"""What all tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    """Tests run side by side: one torch thread each, and the same random numbers each time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
