"""The optimizer against the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from surefoot.diagnose.checks.found import Found, some
from surefoot.diagnose.checks.losses import kind_of, name_of
from surefoot.diagnose.knowledge import sentence
from surefoot.optim.places import modules


def left_out(model: nn.Module, *optimizers: torch.optim.Optimizer) -> list[Found]:
    """Trainable parameters that no optimizer holds: they stay what they are.

    Parameters that yet another optimizer trains are seen as left out.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = {id(p) for group in groups for p in group["params"]}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = [name for name, p in trainable.items() if id(p) not in held]
    if not names:
        return []
    own = {id(p) for p in model.parameters()}
    strange = sum(id(p) not in own for group in groups for p in group["params"])
    share = sum(trainable[name].numel() for name in names) / max(sum(p.numel() for p in trainable.values()), 1)
    text = sentence("not-held", names=some(names))
    if strange:
        text = sentence("holds-others", names=some(names), others=strange)
    evidence = {"not_held": len(names), "trainable": len(trainable), "not_held_share": share, "strange": strange}
    return [Found("not-in-optimizer", text, tuple(names), evidence)]


def frozen(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Found]:
    """An optimizer most of whose values are frozen, while the model has others to train."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    still, total = sum(p.numel() for p in params if not p.requires_grad), sum(p.numel() for p in params)
    held = {id(p) for p in params}
    missed = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if not total or (still < total and not (still > total / 2 and missed)):
        return []
    text = sentence("all-frozen", still=still, total=total)
    if missed:
        text = sentence("mostly-frozen", still=still, total=total, names=some(missed))
    return [Found("frozen-in-optimizer", text, tuple(missed), {"frozen_values": still, "held_values": total})]


def mistaken(model: nn.Module) -> list[Found]:
    """Modules of which somebody has set `module.requires_grad = True`, which torch does not know: they stay frozen."""
    names = [
        name
        for name, part in modules(model)
        if part.__dict__.get("requires_grad") is True and not any(p.requires_grad for p in part.parameters())
    ]
    if not names:
        return []
    return [
        Found(
            "frozen-in-optimizer",
            sentence("attribute-of-module", names=some(names)),
            tuple(names),
            {"frozen_modules": len(names)},
        )
    ]


def without_rate(optimizer: torch.optim.Optimizer) -> list[Found]:
    """Learning rates of 0 that no schedule will raise: one that begins at 0 has an `initial_lr` above it."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups if "lr" in group]
    if not rates or any(rates):
        return []
    return [Found("lr-zero", sentence("rate-of-0"), (), {"lr": rates})]


def uphill(optimizer: torch.optim.Optimizer, loss: Any) -> list[Found]:
    """`maximize=True` with a loss that is to be small. Of a function of one's own nobody knows what it is to be."""
    kind = kind_of(loss)
    if not kind or not any(group.get("maximize") for group in optimizer.param_groups):
        return []
    text = sentence("maximizes", loss=sentence(kind))
    return [Found("sign-flipped", text, (), {"maximize": True, "loss_kind": name_of(kind)})]
