"""A bounded memory of what was measured: all of the recent, ever less of the older."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Series(Generic[T]):
    """Items in the order in which they came, at most so many. When it is full, every other one of the older half goes.

    So the newest half is complete, and what is older is thinned the more the older it is.

    >>> series = Series(8)
    >>> for step in range(20):
    ...     series.append(step)
    >>> series.items
    [0, 10, 13, 15, 16, 17, 18, 19]
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.items: list[T] = []

    def append(self, item: T) -> None:
        if len(self.items) >= self.most + self.most // 4:
            half = self.most // 2 + self.most // 4
            self.items[:half] = self.items[:half:2]
        self.items.append(item)

    def __len__(self) -> int:
        return len(self.items)
