"""What autograd has noted of how a tensor was made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

REARRANGING = frozenset("View UnsafeView ReshapeAlias Squeeze Unsqueeze Clone T Transpose Permute ToCopy Alias".split())
SELECTING = REARRANGING | {"Slice", "Select"}


def operation(node: Any) -> str:
    """The operation of a node, as autograd calls it, without its overload; "" of none.

    >>> import torch
    >>> operation(torch.ones(2, requires_grad=True).tanh().grad_fn)
    'Tanh'
    """
    return "" if node is None else node.name().rsplit("::")[-1].rstrip("0123456789").removesuffix("Backward")


def behind(node: Any, passing: Collection[str] = REARRANGING) -> Any:
    """The node behind those of some operations, which only rearrange or convert all numbers if not said otherwise.

    >>> import torch
    >>> operation(behind(torch.ones(2, 3, requires_grad=True).tanh().flatten().grad_fn))
    'Tanh'
    """
    while node is not None and operation(node) in passing and node.next_functions:
        node = node.next_functions[0][0]
    return node
