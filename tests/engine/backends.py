"""How tests choose a backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from surefoot.engine import cpu


@contextmanager
def reference_only() -> Iterator[None]:
    """Inside, all runs as torch operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "available", lambda *_: False)
        yield
