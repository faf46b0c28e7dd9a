"""At which steps more is measured than costs nothing."""

from __future__ import annotations

from bisect import bisect_right

FIRST = 4  # the first steps are all looked at
GROWTH = 1.3  # after which the distance between two looks grows in proportion to the step ...


class Due:
    """Steps that are close together at first and ever farther apart, up to `every`. A function of the step alone, so
    that a resumed run looks at the same ones.

    >>> due = Due(every=10)
    >>> [step for step in range(60) if due(step)]
    [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 26, 40, 50]
    """

    def __init__(self, every: int, growth: float = GROWTH, first: int = FIRST) -> None:
        self.every, self.early = every, list(range(first))
        step = first
        while step * (growth - 1) < every:
            self.early.append(step)
            step = max(step + 1, int(step * growth + 0.999))
        self.late = -(-step // every) * every  # from here on every so many
        self._early = set(self.early)

    def __call__(self, step: int) -> bool:
        return step in self._early if step < self.late else step % self.every == 0

    def next(self, step: int) -> int:
        """The first of these steps from this one on.

        >>> [Due(every=10).next(step) for step in (7, 27, 40, 41)]
        [8, 40, 40, 50]
        """
        at = bisect_right(self.early, step - 1)
        if at < len(self.early):
            return self.early[at]
        return max(self.late, -(-step // self.every) * self.every)
