"""Batches: a pure function of (seed, epoch, position), so that a resumed epoch goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from surefoot.errors import UserError
from surefoot.task.task import described
from surefoot.task.trees import mapped
from surefoot.train.items import Fetcher
from surefoot.train.loaders import Loader, Stream
from surefoot.train.order import order, shares


class Batches:
    """The batches of a data set.

    Args:
        data: one of
            - a tensor, or a tuple or dict of tensors, one row an item: they are taken from memory directly
            - a torch Dataset with a length
            - a torch DataLoader: it has its own batch size, and its own sampler, whose random numbers come from `seed`
            - any other iterable of batches, which can be gone through several times. With `state_dict` and
              `load_state_dict` it goes on where it was; else what was used is passed over
        batch_size: items a batch; the last one of an epoch may hold fewer
        seed: seed of the order, or None for the data's own order
        what: what errors call the data
        workers: processes that fetch the items of a Dataset; order and random numbers do not depend on them
        rank, world: this process's number among those that share the data, each with `batch_size` items a batch
        pin: whether batches lie in memory that a GPU reads directly

    Attributes:
        sized: whether `len()` is known; a stream's is not
        items: how many items an epoch has, where that is known, else 0
        repeats: whether an epoch can be had again, and from any batch on

    Raises:
        UserError: for data that are empty, of unequal lengths, or of another kind
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        seed: int | None,
        what: str,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        self.seed, self.what = seed, what
        source: Any = data.tensors if type(data) is TensorDataset else data  # a subclass may do more
        self.items = 0
        if isinstance(source, DataLoader | IterableDataset) or not is_items(source):
            self._source = loader_of(source, batch_size, seed, what, rank, world)
        else:
            self.items = count_items(source, what)
            kind = Fetched if isinstance(source, Dataset) else InMemory
            self._source = kind(source, self.items, batch_size, seed, (rank, world), workers, pin)
        self.sized, self.repeats = self._source.length is not None, self._source.repeats
        if self._source.length == 0:
            raise UserError(f"the {what} data are empty")

    def __len__(self) -> int:
        """How many batches an epoch has."""
        if self._source.length is None:
            raise UserError(f"the {self.what} data are a stream: nobody knows how many batches they have")
        return self._source.length

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch, from the batch `start` on."""
        return self._source.epoch(number, start)

    def position_state(self) -> dict[str, Any]:
        """What the data themselves go on from, where they have such a state."""
        return self._source.state_dict()

    def load_position_state(self, state: dict[str, Any]) -> None:
        """Let the next epoch that is asked for go on from what `position_state` returned."""
        self._source.load_state_dict(state)

    def close(self) -> None:
        """End the worker processes, if there are any."""
        self._source.close()


class Indexed:
    """Data whose items have numbers.

    Args:
        shared: this process's number, and how many share the data
    """

    repeats = True

    def __init__(
        self, data: Any, items: int, batch_size: int, seed: int | None, shared: tuple[int, int], *_: Any
    ) -> None:
        self.data, self.items, self.batch_size, self.seed, self.shared = data, items, batch_size, seed, shared
        self.length: int | None = -(-items // (batch_size * shared[1]))

    def rows(self, number: int, start: int) -> list[Tensor]:
        """The numbers of the items of each batch."""
        return shares(order(self.items, self.seed, number), self.batch_size, *self.shared)[start:]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class InMemory(Indexed):
    """Tensors, from which the rows of each batch are taken."""

    def epoch(self, number: int, start: int) -> Iterator[Any]:
        rows = self.rows(number, start)
        if isinstance(self.data, Tensor):
            tensor = self.data
            return (tensor.index_select(0, r) for r in rows)
        if isinstance(self.data, tuple):
            tensors = cast("tuple[Tensor, ...]", self.data)
            return (tuple([t.index_select(0, r) for t in tensors]) for r in rows)
        named = cast("Mapping[str, Tensor]", self.data)
        return ({name: t.index_select(0, r) for name, t in named.items()} for r in rows)


class Fetched(Indexed):
    """Items of a Dataset."""

    def __init__(
        self,
        data: Any,
        items: int,
        batch_size: int,
        seed: int | None,
        shared: tuple[int, int],
        workers: int,
        pin: bool,
    ) -> None:
        super().__init__(data, items, batch_size, seed, shared)
        self.fetcher = Fetcher(data, workers, pin)

    def epoch(self, number: int, start: int) -> Iterator[Any]:
        rows = self.rows(number, start)
        numbers = cast("list[list[int]]", [batch.tolist() for batch in rows])
        return self.fetcher.fetch([[(self.seed, number, item) for item in batch] for batch in numbers])

    def close(self) -> None:
        self.fetcher.close()


def is_items(data: Any) -> bool:
    """Whether data hold items rather than batches."""
    return isinstance(data, Tensor | tuple | list | Mapping | str | Dataset)


def count_items(data: Any, what: str) -> int:
    """How many items the data hold."""
    parts: Sequence[Any] = ()
    if isinstance(data, Tensor):
        return len(data) if data.ndim else 0
    if isinstance(data, tuple):
        parts = cast("tuple[Any, ...]", data)
    elif isinstance(data, Mapping):
        parts = list(cast("Mapping[Any, Any]", data).values())
    elif isinstance(data, Dataset) and hasattr(cast(Any, data), "__len__"):
        return len(cast("Sequence[Any]", data))
    if not isinstance(data, tuple | Mapping) or not all(isinstance(part, Tensor) for part in parts):
        raise UserError(
            f"the {what} data must be a torch Dataset with a length, a tensor, a tuple or dict of tensors, a "
            f"DataLoader or another iterable of batches, not {described(data)}"
        )
    counts = {len(part) if part.ndim else 0 for part in parts}
    if len(counts) > 1:
        raise UserError(f"the {what} data have parts of unequal lengths: {sorted(counts)}")
    return counts.pop() if counts else 0


def loader_of(data: Any, batch_size: int, seed: int | None, what: str, rank: int, world: int) -> Loader | Stream:
    """What makes batches by itself."""
    if isinstance(data, IterableDataset):
        data = DataLoader(cast("IterableDataset[Any]", data), batch_size=batch_size)
    if not isinstance(data, Iterable):
        raise UserError(f"the {what} data must be a Dataset, tensors, or an iterable of batches, not {described(data)}")
    if isinstance(data, Iterator):
        raise UserError(
            f"the {what} data can be gone through once only: give an object whose __iter__ begins anew, not a generator"
        )
    if type(cast(Any, data)) is DataLoader:  # a subclass may do more
        loader = cast("DataLoader[Any]", data)
        if hasattr(cast(Any, loader.batch_sampler), "__len__") and not isinstance(loader.dataset, IterableDataset):
            return Loader(loader, seed, rank, world)
    return Stream(cast("Iterable[Any]", data), what, rank, world)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    return mapped(batch, lambda t: t if t.device == device else t.to(device, non_blocking=True))
