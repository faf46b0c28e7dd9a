"""Weights that outputs rest on and that neither the model nor an optimizer knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

FAR = 4096  # nodes of autograd's graph that are looked at


def strays(outputs: Any, known: Iterable[Tensor]) -> list[list[Any]]:
    """Parameters behind some outputs that are not among the known ones, each as [who it is, its version, its shape]:
    layers in a plain list, say, which a module does not register. One that moves is trained by somebody else.

    >>> import torch
    >>> hidden, head = nn.Linear(3, 3, bias=False), nn.Linear(3, 1)
    >>> [shape for _, _, shape in strays(head(hidden(torch.ones(2, 3))), head.parameters())]
    [[3, 3]]
    """
    ids = {id(p) for p in known}
    waiting: list[Any] = [getattr(outputs, "grad_fn", None)]
    seen: set[Any] = set()
    found: list[list[Any]] = []
    while waiting and len(seen) < FAR:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and id(leaf) not in ids:
            found.append([id(leaf), leaf._version, list(leaf.shape)])
        waiting += [following for following, _ in node.next_functions]
    return found
