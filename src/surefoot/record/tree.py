"""Trees of dicts, lists, tuples, tensors, strings and numbers as JSON, their tensors put aside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.errors import UserError


class Packer:
    """Turns trees into JSON and gathers their tensors by name; one that several places share is kept once.

    >>> packer = Packer()
    >>> packer.pack({"lr": 0.1, "m": torch.zeros(2)})
    {'dict': [['lr', 0.1], ['m', {'tensor': 'm'}]]}
    >>> list(packer.tensors)
    ['m']
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[tuple[Any, ...], str] = {}

    def pack(self, tree: Any, name: str = "") -> Any:
        """The tree as JSON.

        Raises:
            UserError: for what cannot be written without pickle, naming its place
        """
        if isinstance(tree, Tensor):
            return {"tensor": self._put_aside(tree, name)}
        if isinstance(tree, Mapping):
            items = cast("Mapping[Any, Any]", tree).items()
            return {"dict": [[_key(key, name), self.pack(value, _join(name, key))] for key, value in items]}
        if isinstance(tree, list | tuple):
            kind = "list" if isinstance(tree, list) else "tuple"
            values = cast("list[Any]", tree)
            return {kind: [self.pack(value, _join(name, i)) for i, value in enumerate(values)]}
        if isinstance(tree, float) and not math.isfinite(tree):
            return {"float": repr(float(tree))}  # JSON has no word for it
        if tree is None or isinstance(tree, str | int | float | bool):
            return tree
        raise _refused(name, f"a {type(tree).__name__}")

    def _put_aside(self, tensor: Tensor, name: str) -> str:
        t = tensor.detach()
        if t.layout is not torch.strided or t.is_quantized or t.is_meta:
            kind = "meta tensor" if t.is_meta else "quantized tensor" if t.is_quantized else f"{t.layout} tensor"
            raise UserError(f"cannot save {name or 'this'}: a {kind} has no plain memory; make it a dense one")
        place = (t.data_ptr(), t.shape, t.stride(), t.dtype, t.device, t.is_conj(), t.is_neg())
        if not t.numel() or place not in self._seen:
            wanted = name.encode(errors="replace").decode()  # safetensors takes no half of a surrogate pair
            name, n = wanted, 1
            while name in self.tensors or name == "__metadata__":  # {"a.b": x} beside {"a": {"b": y}}
                name, n = f"{wanted}~{n}", n + 1
            self.tensors[name] = t
            self._seen[place] = name
            return name
        return self._seen[place]


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that was packed. KeyError, TypeError or ValueError where the JSON is none that `Packer` makes."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = cast("dict[str, Any]", tree).items()
    if kind == "tensor":
        return tensors[value]
    if kind == "complex":  # format 1
        return torch.view_as_complex(tensors[value])
    if kind == "float":
        return float(value)
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"{kind!r} is no kind of tree")
    values = [unpack(item, tensors) for item in value]
    return values if kind == "list" else tuple(values)


def _key(key: Any, name: str) -> Any:
    if key is None or isinstance(key, str | int) or (isinstance(key, float) and math.isfinite(key)):
        return key
    raise _refused(name, f"the key {key!r} ({type(key).__name__})")


def _refused(name: str, what: str) -> UserError:
    return UserError(f"cannot save {name or 'this'}: {what} needs pickle, which checkpoints do without")


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)
