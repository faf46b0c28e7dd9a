"""Trees of dicts, lists and tuples that hold tensors, as batches are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor


def mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The tree with each tensor replaced; lists become tuples, and a named tuple stays one.

    >>> import torch
    >>> mapped({"x": [torch.ones(2), "text"]}, lambda t: t + 1)
    {'x': (tensor([2., 2.]), 'text')}
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: mapped(value, function) for key, value in cast("Mapping[Any, Any]", tree).items()}
    if isinstance(tree, list | tuple):
        values = [mapped(value, function) for value in cast("Sequence[Any]", tree)]
        named = getattr(cast(Any, tree), "_make", None)
        return named(values) if named else tuple(values)
    return tree


def tensors(tree: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree, each with its place in it.

    >>> import torch
    >>> [place for place, _ in tensors({"x": [torch.ones(2), "text"], "y": torch.ones(1)})]
    ['x 0', 'y']
    """
    if isinstance(tree, Tensor):
        yield place, tree
    for key, part in parts(tree) or ():
        yield from tensors(part, f"{place} {key}".strip())


def parts(tree: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a dict, list or tuple holds, by key or number; None for what is a leaf.

    >>> list(parts(("a", "b"))), parts("text")
    ([(0, 'a'), (1, 'b')], None)
    """
    if isinstance(tree, Mapping):
        return cast("Mapping[Any, Any]", tree).items()
    return enumerate(cast("Sequence[Any]", tree)) if isinstance(tree, list | tuple) else None
