"""The state of all random numbers: Python's, NumPy's, torch's, and those of this process's GPU."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers."""
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def state(device: torch.device) -> dict[str, Any]:
    """Where the random numbers stand, as a tree that a checkpoint can hold."""
    kind, keys, place, has_gauss, gauss = cast(Any, np.random.get_state(legacy=True))
    version, numbers, cached = random.getstate()
    found: dict[str, Any] = {
        "python": (version, torch.tensor(numbers), cached),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(saved: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers that `state` found."""
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, place, has_gauss, cached = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
