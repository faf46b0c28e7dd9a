"""Batches. Their order is a pure function of (seed, epoch), so a resumed epoch goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from surefoot.errors import UserError
from surefoot.task.task import described


class Batches:
    """The batches of a data set.

    Args:
        data: a tensor or a tuple of tensors, one row an item; a torch Dataset; or a DataLoader, which is taken as it
            is, in its own order and batch size
        batch_size: items a batch; the last one of an epoch may hold fewer
        seed: seed of the order, or None for the data's own order
        what: what errors call the data

    Raises:
        UserError: for data that are empty, of unequal lengths, or of another kind
    """

    def __init__(self, data: Any, batch_size: int, seed: int | None, what: str) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.data: Any = data.tensors if type(data) is TensorDataset else data  # a subclass may do more
        self.items = _count(self.data, what)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self.items if isinstance(self.data, DataLoader) else -(-self.items // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch, from the batch `start` on."""
        if isinstance(self.data, DataLoader):
            return islice(cast("DataLoader[Any]", self.data), start, None)
        rows = cast("tuple[Tensor, ...]", self._order(number).split(self.batch_size))[start:]
        if isinstance(self.data, Tensor):
            return (self.data[r] for r in rows)
        if isinstance(self.data, tuple):
            tensors = cast("tuple[Tensor, ...]", self.data)
            return (tuple(t[r] for t in tensors) for r in rows)
        own = torch.Generator()  # else each iterator draws its seed from the global random numbers
        return iter(DataLoader(self.data, batch_sampler=[r.tolist() for r in rows], generator=own))

    def _order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return torch.arange(self.items)
        digest = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return torch.randperm(self.items, generator=generator)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in cast("Mapping[Any, Any]", batch).items()}
    if isinstance(batch, list | tuple):
        values = [to_device(value, device) for value in cast("Sequence[Any]", batch)]
        named = getattr(cast(Any, batch), "_make", None)  # a named tuple stays one
        return named(values) if named else tuple(values)
    return batch


def _count(data: Any, what: str) -> int:
    """How many items (of a DataLoader: batches) the data hold."""
    source = cast(Any, data).dataset if isinstance(data, DataLoader) else data
    if isinstance(source, IterableDataset):
        raise UserError(f"the {what} data are a stream, which is not supported yet: give data with a length")
    if isinstance(data, Tensor):
        count = len(data) if data.ndim else 0
    elif isinstance(data, tuple) and all(isinstance(part, Tensor) for part in cast("tuple[Any, ...]", data)):
        counts = {len(part) for part in cast("tuple[Tensor, ...]", data)}
        if len(counts) > 1:
            raise UserError(f"the {what} data have parts of unequal lengths: {sorted(counts)}")
        count = counts.pop() if counts else 0
    elif isinstance(data, DataLoader | Dataset) and hasattr(cast(Any, data), "__len__"):
        count = len(cast("Sequence[Any]", data))
    else:
        raise UserError(
            f"the {what} data must be a torch Dataset with a length, a tensor, a tuple of tensors or a DataLoader, "
            f"not {described(data)}"
        )
    if count == 0:
        raise UserError(f"the {what} data are empty")
    return count
