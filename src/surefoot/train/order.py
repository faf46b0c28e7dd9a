"""The order of the data, and all that is random about an item, as pure functions of (seed, epoch, position)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor


def order(items: int, seed: int | None, epoch: int) -> Tensor:
    """The numbers of the items in the order of an epoch; without a seed, one after the other."""
    if seed is None:
        return torch.arange(items)
    generator = torch.Generator().manual_seed(number(f"{seed}/{epoch}", signed=True))
    return torch.randperm(items, generator=generator)


def shares(numbers: Tensor, batch_size: int, rank: int, world: int) -> list[Tensor]:
    """This process's batches: together the processes take `batch_size * world` items a step, in the given order.

    The last batches are as equal as can be. Where fewer items are left than there are processes, some are taken from
    the beginning, so that all processes take the same number of steps.
    """
    batches = list(cast("tuple[Tensor, ...]", numbers.split(batch_size * world)))
    if world == 1:
        return batches
    if len(batches[-1]) < world:
        again = numbers.repeat(-(-world // len(numbers)))[: world - len(batches[-1])]
        batches[-1] = torch.cat((batches[-1], again))
    return [batch[rank::world] for batch in batches]


@contextmanager
def drawing(*place: int | None) -> Generator[None]:
    """While this context lasts, Python's, NumPy's and torch's random numbers are those of a place, such as (seed,
    epoch, item); afterwards they go on as if nothing had been drawn."""
    kept = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    try:
        reseed(*place)
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        torch.set_rng_state(kept[2])


def reseed(*place: int | None) -> None:
    """Begin Python's, NumPy's and torch's random numbers anew, at a place. A GPU's are left alone."""
    seed = number("/".join(map(str, place)))
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def number(text: str, signed: bool = False) -> int:
    """64 bits made of a text, the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=signed)
