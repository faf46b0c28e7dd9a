"""Where in a model each parameter is: told by the types of modules, not by guessing names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.parameter import UninitializedParameter

from surefoot.errors import UserError

NORMS = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]
)  # fmt: skip
CONVOLUTIONS = nn.modules.conv._ConvNd  # pyright: ignore[reportPrivateUsage]
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
GATES = {"LSTM": 4, "GRU": 3, "LSTMCell": 4, "GRUCell": 3}  # matrices, one below the other, in a recurrent weight
BIAS = re.compile(r"(^|_)bias(_|$)")


@dataclass
class Place:
    """A parameter of a model.

    name: its whole name; of one that is shared, the first
    kind: "embedding", "norm", "bias", "conv", "linear", "recurrent", "attention" or "other"
    head: whether it belongs to the last linear layer, which makes the outputs of most models
    parts: how many matrices it holds, one below the other
    """

    name: str
    param: nn.Parameter
    kind: str
    head: bool = False
    parts: int = 1


def places(model: nn.Module) -> list[Place]:
    """Every parameter once, in the model's own order.

    Raises:
        UserError: for a parameter that has no shape yet
    """
    found: dict[int, Place] = {}
    heads: list[Place] = []
    last: nn.Module | None = None
    for name, module, key, p in _parameters(model):
        if isinstance(p, UninitializedParameter):
            raise UserError(f"{name} has no shape yet: run the model on a batch before its optimizer is made")
        kind = _kind(module, key, p)
        place = found.setdefault(id(p), Place(name, p, kind, parts=_parts(module, key)))
        if kind == "embedding":  # a head that is tied to one counts as one
            place.kind = kind
        if isinstance(module, nn.Linear):
            heads = [*(heads if module is last else []), place]
            last = module
    for place in heads:
        place.head = True
    return list(found.values())


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Name, module, name in the module; parameters that are shared come again."""
    for prefix, module in modules(model):
        for key, p in module.named_parameters(recurse=False, remove_duplicate=False):
            yield plain(f"{prefix}.{key}" if prefix else key), module, key, p


def modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A model's modules with their names."""
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules())


def plain(name: str) -> str:
    """A name without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")


def _kind(module: nn.Module, key: str, p: nn.Parameter) -> str:
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if isinstance(module, NORMS) or (type(module).__name__.endswith("Norm") and p.ndim < 2):
        return "norm"
    if BIAS.search(key):
        return "bias"
    kinds: dict[str, type | tuple[type, ...]] = {
        "conv": CONVOLUTIONS,
        "recurrent": (nn.RNNBase, nn.RNNCellBase),
        "attention": nn.MultiheadAttention,
        "linear": nn.Linear,
    }
    return next((kind for kind, types in kinds.items() if isinstance(module, types)), "other")


def _parts(module: nn.Module, key: str) -> int:
    if isinstance(module, nn.MultiheadAttention):
        return 3 if key == "in_proj_weight" else 1
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and key.startswith("weight") and "_hr_" not in key:
        return GATES.get(getattr(module, "mode", type(module).__name__), 1)
    return 1
