"""Items of a torch Dataset, fetched here or by worker processes, with random numbers of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset, Subset

from surefoot.train.order import drawing, reseed

Place = tuple[int | None, int, int]  # seed, epoch, item


class Seeded(Dataset[Any]):
    """A data set whose items have their own random numbers: those of (seed, epoch, item), wherever they are fetched.

    Items are asked for by their places. What augments them may draw from Python's, NumPy's and torch's random numbers;
    training's own do not change by it.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: Place) -> Any:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[Any]:
        with drawing(*places[0]):
            if hasattr(self.data, "__getitems__") and type(self.data) is not Subset:  # many at once are quicker to get
                return self.data.__getitems__([item for _, _, item in places])
            return [self._one(place) for place in places]

    def _one(self, place: Place) -> Any:
        reseed(*place)
        return self.data[place[-1]]

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.data, name)


class Rows:
    """The places of each batch of an epoch. One loader asks for epoch after epoch, so that its workers stay."""

    def __init__(self) -> None:
        self.batches: Sequence[list[Place]] = ()

    def __iter__(self) -> Iterator[list[Place]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Ignorant:
    """A worker's beginning: it ignores what asks the training to stop, for that is the parent's to answer."""

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


class Fetcher:
    """Fetches batches of items by their places.

    Args:
        data: a Dataset with a length
        workers: processes that fetch; 0: this one does
        pin: whether batches lie in memory that a GPU reads directly
        options: further arguments of the DataLoader
    """

    def __init__(self, data: Any, workers: int, pin: bool, options: dict[str, Any] | None = None) -> None:
        chosen = options or {}
        chosen["worker_init_fn"] = Ignorant(chosen.get("worker_init_fn")) if workers else None
        self.rows = Rows()
        self.loader: DataLoader[Any] | None = DataLoader(
            Seeded(data),
            batch_sampler=cast(Any, self.rows),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            **chosen,
        )

    def fetch(self, batches: Sequence[list[Place]]) -> Iterator[Any]:
        """The batches of these places, in this order."""
        self.rows.batches = batches
        assert self.loader is not None, "closed"
        with drawing(0):  # a DataLoader draws a number each time it is begun
            return iter(self.loader)

    def close(self) -> None:
        """End the workers."""
        self.loader = None
