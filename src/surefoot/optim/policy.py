"""Which parameters are trained how: weight decay, rates by depth, and what is to be different by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from surefoot.errors import UserError, unknown
from surefoot.optim.places import Place, modules, places, plain

KINDS = ("norm", "bias", "embedding")  # which may be spared weight decay
RESERVED = ("params", "param_names", "lr_factors", "decay_factors")


class Groups(list[dict[str, Any]]):
    """Parameter groups, as any optimizer takes them. Printed, they are a table of what got what."""

    def __str__(self) -> str:
        rows = [("group", "settings", "tensors", "parameters", "such as")]
        for i, group in enumerate(self):
            settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            if max(settings.pop("parts", [1])) > 1:
                settings["some"] = "split"
            factors: list[float] = settings.pop("lr_factors", [])
            if factors:
                low, high = min(factors), max(factors)
                settings["lr"] = f"x {low:.3g}" + (f" to {high:.3g}" if high > low else "")
            words = ", ".join(
                f"{key} {value:g}" if _number(value) else f"{key} {value}" for key, value in settings.items()
            )
            names = [name for name, _ in group["params"]]
            size = sum(p.numel() for _, p in group["params"])
            shown = ", ".join(names[:2]) + (" ..." if len(names) > 2 else "")
            rows.append((str(i), words or "as the optimizer says", str(len(names)), f"{size:,}", shown))
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        return "\n".join(lines)


def param_groups(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    no_decay: str | None = "norm,bias,embedding",
    layer_decay: float | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    freeze: str | Sequence[str] | None = None,
) -> Groups:
    """Parameter groups for any optimizer: what is decayed, how rates fall with depth, what is different by name.

    Norms, biases and embeddings are told by the types of their modules; a weight that is shared comes once. Groups with
    equal settings are one.

    Args:
        lr: written into the groups; needed with `layer_decay` for torch's own optimizers
        weight_decay: of all parameters but those of `no_decay`; None: as the optimizer says
        no_decay: which kinds are not decayed: some of "norm,bias,embedding", or ""
        layer_decay: rates are multiplied by it once for each block between a parameter and the outputs. Blocks are the
            children of the model's largest ModuleList or Sequential; what comes before them is one layer more, what
            comes after is trained at the full rate. Without `lr` the groups get `lr_factors`, which surefoot's
            optimizers multiply every rate and schedule with, and torch's ignore
        overrides: settings by patterns of names ("head.*"); later ones win
        freeze: patterns of names that are not trained. It sets their `requires_grad` to False

    Raises:
        UserError: for a pattern that no name matches, an unknown kind, a model without trainable parameters or, with
            `layer_decay`, without blocks

    >>> import torch, surefoot as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    >>> groups = sf.optim.param_groups(model, weight_decay=0.1, overrides={"2.*": {"lr": 1e-2}})
    >>> print(groups)
    group  settings                   tensors  parameters  such as
    0      weight_decay 0.1           1        32          0.weight
    1      weight_decay 0             3        24          0.bias, 1.weight ...
    2      weight_decay 0.1, lr 0.01  1        16          2.weight
    3      weight_decay 0, lr 0.01    1        2           2.bias
    """
    known = places(model)
    spared = _kinds(no_decay)
    if freeze is not None:
        for place in matching("freeze", [freeze] if isinstance(freeze, str) else freeze, known):
            place.param.requires_grad_(False)
    known = [place for place in known if place.param.requires_grad]
    if not known:
        raise UserError("the model has no trainable parameters")
    scales = {} if layer_decay is None else _by_depth(model, known, layer_decay)
    settings: dict[str, dict[str, Any]] = {}
    for place in known:
        own = settings[place.name] = {}
        if weight_decay is not None or place.kind in spared:
            own["weight_decay"] = 0.0 if place.kind in spared else weight_decay
        if lr is not None:
            own["lr"] = lr * scales.get(place.name, 1.0)
    for pattern, changes in (overrides or {}).items():
        for name in changes:
            if name in RESERVED:
                raise UserError(f"overrides: {pattern!r} cannot set {name}: it is the policy's own")
        for place in matching("overrides", [pattern], known):
            settings[place.name] |= changes
    return merged(known, settings, {"lr_factors": scales} if scales and lr is None else {})


def merged(
    known: Iterable[Place], settings: Mapping[str, Mapping[str, Any]], lists: Mapping[str, Mapping[str, Any]]
) -> Groups:
    """One group for all parameters with equal settings, in the order in which they first appear.

    Args:
        settings: by the parameters' names
        lists: what a group has a list of, an entry for each of its parameters; by their names
    """
    groups, distinct = Groups(), list[Mapping[str, Any]]()
    for place in known:
        own = settings[place.name]
        if own not in distinct:
            distinct.append(own)
            groups.append({"params": [], **own, **{key: [] for key in lists}})
        group = groups[distinct.index(own)]
        group["params"].append((place.name, place.param))
        for key, values in lists.items():
            group[key].append(values[place.name])
    return groups


def _kinds(no_decay: str | None) -> set[str]:
    found = {kind.strip() for kind in (no_decay or "").split(",")} - {""}
    for kind in found:
        if kind not in KINDS:
            raise unknown("kind of parameter in no_decay", kind, KINDS)
    return found


def matching(what: str, patterns: Sequence[str], known: Sequence[Place]) -> list[Place]:
    """The parameters whose names match any of the patterns; each must match one."""
    names = [place.name for place in known]
    for pattern in patterns:
        if not any(fnmatchcase(name, plain(pattern)) for name in names):
            near = get_close_matches(pattern, names, 3, cutoff=0.3)
            hint = f"; near are {', '.join(near)}" if near else ""
            raise UserError(f"{what}: no parameter's name matches {pattern!r}{hint}")
    return [place for place in known if any(fnmatchcase(place.name, plain(pattern)) for pattern in patterns)]


def _by_depth(model: nn.Module, known: Sequence[Place], decay: float) -> dict[str, float]:
    """What each rate is multiplied by."""
    if not (_number(decay) and 0 < decay <= 1):
        raise UserError(f"layer_decay={decay!r}: it must be a number above 0, at most 1, such as 0.75")
    prefix, blocks = _blocks(model)
    order = {f"{prefix}{key}.": i for i, key in enumerate(blocks, 1)}
    first = next((i for i, place in enumerate(known) if place.name.startswith(tuple(order))), len(known))
    scales: dict[str, float] = {}
    for i, place in enumerate(known):
        inside = next((layer for start, layer in order.items() if place.name.startswith(start)), None)
        layer = inside if inside is not None else 0 if i < first or place.kind == "embedding" else len(blocks) + 1
        scales[place.name] = decay ** (len(blocks) + 1 - layer)
    return scales


def _blocks(model: nn.Module) -> tuple[str, list[str]]:
    """Name and children of the container of blocks: of those in no other container, the one with most parameters."""
    found: list[tuple[int, str, list[str]]] = []
    for name, module in modules(model):
        children = [key for key, child in module.named_children() if next(child.parameters(), None) is not None]
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(children) > 1:
            size = sum(p.numel() for p in module.parameters())
            found.append((size, plain(f"{name}.") if name else "", children))
    if not found:
        raise UserError(
            "layer_decay: the model has no ModuleList or Sequential of blocks, whose depth rates could go by"
        )
    size = max(size for size, _, _ in found)
    # a Sequential around everything holds little more than the blocks themselves, which are then the longer list
    large = [each for each in found if each[0] > size / 2]
    _, prefix, children = max(large, key=lambda each: len(each[2]))
    return prefix, children


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
