"""What tests of the engine share."""

from __future__ import annotations

import pytest

from surefoot.engine import threads


@pytest.fixture
def launches(monkeypatch) -> list[int]:
    """The number of threads of each launch of a kernel."""
    seen: list[int] = []
    real = threads.run

    def counting(kernel: int, block: int, number: int) -> None:
        seen.append(number)
        real(kernel, block, number)

    monkeypatch.setattr(threads, "run", counting)
    return seen
