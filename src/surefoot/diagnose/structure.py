"""What is known of a model and its optimizers before the first step, as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.optim import Optimizer as Ours
from surefoot.optim.places import modules
from surefoot.watch.picks import local
from surefoot.watch.wiring import plain

DROPOUT = nn.modules.dropout._DropoutNd  # pyright: ignore[reportPrivateUsage]
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]


def structure(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """All of it, by name."""
    groups = [group for each in optimizers for group in each.param_groups]
    weight_decay, decoupled = decay(optimizers)
    return {
        "gains": gains(model),
        "symmetric": symmetric(model),
        "alike": alike(model),
        "narrow": narrow(model),
        "linear": linear(model),
        "half": half(model),
        "dropout": max((float(m.p) for m in model.modules() if isinstance(m, DROPOUT)), default=0.0),
        "normalised": all(normalised(optimizer) for optimizer in optimizers),
        "second_order": any("history_size" in group for group in groups),  # L-BFGS, which wants whole batches
        "accumulating": any("initial_accumulator_value" in group for group in groups),  # Adagrad's rates only shrink
        "momentum": max((float(group.get("momentum", 1.0)) for group in groups), default=1.0),
        "maximize": all(group.get("maximize", False) for group in groups),
        "weight_decay": weight_decay,
        "decoupled": decoupled,
    }


@torch.no_grad()
def gains(model: nn.Module) -> dict[str, float]:
    """For each linear or convolutional layer the size of its weights times the root of its number of inputs: near 1
    where the layer keeps the variance of what enters it."""
    found: dict[str, float] = {}
    for name, part in modules(model):
        weight: Any = getattr(part, "weight", None)
        if isinstance(part, WEIGHTED) and isinstance(weight, Tensor) and weight.ndim > 1 and weight.numel() > 1:
            w = local(weight).detach().float()
            found[plain(f"{name}.weight")] = float(w.square().mean().sqrt()) * (w[0].numel() ** 0.5)
    return found


@torch.no_grad()
def alike(model: nn.Module) -> list[str]:
    """Weights whose rows are all the same, or whose columns are: the units, or the features, begin as one."""
    return [plain(name) for name, p in model.named_parameters() if p.requires_grad and is_alike(p)]


def is_alike(p: Tensor) -> bool:
    """Whether all rows of a matrix are the same, or all columns."""
    w = local(p).detach()
    if w.ndim < 2 or len(w) < 2 or w[0].numel() < 2:
        return False
    w = w.flatten(1)
    return _same(w) or _same(w.T)


def _same(rows: Tensor) -> bool:
    """Whether all rows are the same but for rounding; two of them tell of most, which need not be copied whole."""
    near = 1e-5 * float(rows[0].abs().max())
    return all(bool(((some - rows[0]).abs() <= near).all()) for some in (rows[1], rows))


@torch.no_grad()
def symmetric(model: nn.Module) -> list[str]:
    """Layers whose units begin as one and will stay so but for rounding: all rows of the weights are the same, and all
    columns of the next layer's."""
    layers = [(plain(f"{n}.weight"), local(m.weight).detach()) for n, m in modules(model) if isinstance(m, nn.Linear)]
    found: list[str] = []
    for (name, w), (_, following) in itertools.pairwise(layers):
        same = len(w) > 1 and bool((w == w[0]).all())
        if same and following.shape[1] == len(w) and bool((following == following[:, :1]).all()):
            found.append(name)
    return found


def narrow(model: nn.Module) -> dict[str, int]:
    """Hidden layers of one or two units that all that follows must do with, and embeddings of one number."""
    layers = [(plain(name), m.in_features, m.out_features) for name, m in modules(model) if isinstance(m, nn.Linear)]
    pairs = itertools.pairwise(layers)
    found = {
        name: width
        for (name, _, width), (following, enters, _) in pairs
        if width <= 2 and width == enters and name.rpartition(".")[0] == following.rpartition(".")[0]  # of one chain
    }
    embeddings = [(plain(name), m) for name, m in modules(model) if isinstance(m, nn.Embedding)]
    return found if found or any(m.embedding_dim > 1 for _, m in embeddings) else {name: 1 for name, _ in embeddings}


def linear(model: nn.Module) -> bool:
    """Whether one linear layer is all that can learn."""
    learning = [part for _, part in modules(model) if any(True for _ in part.parameters(recurse=False))]
    return len(learning) == 1 and isinstance(learning[0], nn.Linear)


def half(model: nn.Module) -> bool:
    """Whether there are weights in float16, whose numbers end at 65504 and at 6e-8."""
    return any(p.dtype == torch.float16 for p in model.parameters())


def decay(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[float, bool]:
    """The largest weight decay, and whether it acts on weights themselves and not through the gradient."""
    found = [(float(group.get("weight_decay", 0.0)), each, group) for each in optimizers for group in each.param_groups]
    largest, optimizer, group = max(found, key=lambda item: item[0])
    apart = optimizer.decoupled(group) if isinstance(optimizer, Ours) else type(optimizer).__name__ in ("AdamW", "Muon")
    return largest, bool(group.get("decoupled_weight_decay", False) or apart)


def normalised(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the length of an optimizer's steps does not depend on that of its gradients, as with Adam."""
    keys = {key for group in optimizer.param_groups for key in group}
    return not ({"dampening", "nesterov"} & keys) and bool({"betas", "alpha", "rho", "eps"} & keys)
