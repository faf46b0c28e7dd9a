"""Data that make their batches by themselves: DataLoaders, and other iterables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from surefoot.train.items import Fetcher
from surefoot.train.order import drawing

log = logging.getLogger("surefoot")

KEPT = ("collate_fn", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")


class Loader:
    """A DataLoader of a Dataset with a length. Its sampler decides which items a batch holds, with random numbers that
    are a pure function of (seed, epoch); the items are fetched as our own are.

    Where several processes share it, each takes every so-many-th batch, unless its sampler divides it by itself.
    """

    repeats = True

    def __init__(self, loader: DataLoader[Any], seed: int | None, rank: int, world: int) -> None:
        self.loader, self.seed = loader, seed
        divides = hasattr(_sampler(loader), "num_replicas")  # torch's DistributedSampler, and those like it
        self.rank, self.world = (0, 1) if divides else (rank, world)
        options = {name: getattr(loader, name) for name in KEPT if getattr(loader, name) is not None}
        self.fetcher = Fetcher(loader.dataset, loader.num_workers, loader.pin_memory, options)
        self.length: int | None = -(-len(loader) // self.world)

    def epoch(self, number: int, start: int) -> Iterator[Any]:
        rows = self._rows(number)
        whole = -(-len(rows) // self.world) * self.world  # so that all processes take the same number of steps
        rows = (rows * self.world)[:whole][self.rank :: self.world]
        return self.fetcher.fetch([[(self.seed or 0, number, item) for item in batch] for batch in rows[start:]])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None:
        self.fetcher.close()

    def _rows(self, number: int) -> list[Any]:
        """The items of each batch of an epoch, as the sampler gives them when it is at that epoch's beginning."""
        sampler, batches = _sampler(self.loader), cast(Any, self.loader.batch_sampler)
        tell_epoch(sampler, number)
        if batches is not sampler:
            tell_epoch(batches, number)
        own = getattr(sampler, "generator", None)
        before = None if own is None else own.get_state()
        with drawing(self.seed or 0, number):
            if own is not None:
                own.manual_seed(torch.initial_seed())
            rows = [list(batch) for batch in cast("Iterable[Sequence[Any]]", batches)]
        if own is not None:
            own.set_state(before)
        return rows


class Stream:
    """An iterable of batches. It goes on where it was by its own `load_state_dict`; without one, what was used before
    is passed over, which takes its time.

    The random numbers that it is begun with are those of the epoch. Where several processes share it, each takes every
    so-many-th batch; what is left over at its end is left out.
    """

    repeats = False

    def __init__(self, data: Iterable[Any], what: str, rank: int, world: int) -> None:
        self.data, self.what, self.rank, self.world = data, what, rank, world
        self.length: int | None = None
        try:
            self.length = len(cast("Sequence[Any]", data)) // world
        except TypeError:
            log.debug("the %s data have no length", what)
        self._loaded = False  # whether it stands where it is to go on

    def epoch(self, number: int, start: int) -> Iterator[Any]:
        loaded, self._loaded = self._loaded, False
        if self.length is not None and start >= self.length:
            return
        skip = 0 if loaded else start
        if skip:
            log.warning("the %s data have no state_dict: to go on, %d batches are passed over", self.what, skip)
        tell_epoch(self.data, number)
        with drawing(number):  # of what it draws to begin, training's own random numbers know nothing
            batches = iter(self.data)
            first = list(islice(batches, skip * self.world, (skip + 1) * self.world))
        while len(first) == self.world:
            yield first[self.rank]
            first = list(islice(batches, self.world))

    def state_dict(self) -> dict[str, Any]:
        tell = getattr(self.data, "state_dict", None)
        return {} if tell is None else {"stream": tell()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "stream" in state:
            cast(Any, self.data).load_state_dict(state["stream"])
            self._loaded = True

    def close(self) -> None: ...


def tell_epoch(data: Any, number: int) -> None:
    """Tell samplers and streams that want to know it which epoch begins."""
    tell = getattr(data, "set_epoch", None)
    if tell is not None:
        tell(number)


def _sampler(loader: DataLoader[Any]) -> Any:
    """What decides the order: a loader's own sampler, or that of a batch sampler it was given."""
    given = cast(Any, loader.batch_sampler)
    return getattr(given, "sampler", given)
