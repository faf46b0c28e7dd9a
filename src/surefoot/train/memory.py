"""Steps that need less memory: batches in parts, and the signs that memory has run out."""

from __future__ import annotations

from typing import Any

import torch

from surefoot.task.trees import mapped, tensors


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def rows(batch: Any) -> int:
    """How many items every tensor of a batch has; 0 where they differ, so that it cannot be divided."""
    counts = {t.shape[0] if t.ndim else 0 for _, t in tensors(batch)}
    return counts.pop() if len(counts) == 1 else 0


def items(batch: Any) -> int:
    """How many items a batch holds: the rows of its first tensor."""
    return next((t.shape[0] for _, t in tensors(batch) if t.ndim), 0)


def divided(batch: Any, parts: int) -> list[Any]:
    """A batch as at most so many, of sizes as equal as can be."""
    count = rows(batch)
    if parts == 1 or count < 2:
        return [batch]
    size = -(-count // parts)
    return [mapped(batch, lambda t, i=begin: t[i : i + size]) for begin in range(0, count, size)]
