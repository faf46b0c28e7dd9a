"""The model as the recipe wants it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from surefoot.errors import UserError
from surefoot.task.recipe import Recipe
from surefoot.task.task import Task


def made(task: Task, recipe: Recipe, device: torch.device) -> nn.Module:
    """A new model on the device: checked, in the recipe's memory format, with what is to be computed again.

    Raises:
        UserError: where it is no model, has nothing to train, or has no modules by the recipe's name
    """
    model = task.model()
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"the model function of {task.name} must return a model; it returned {type(model).__name__}")
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if isinstance(task.loss, nn.Module):  # class weights and the like
        task.loss.to(device)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"the model of {task.name} has no trainable parameters")
    if recipe.recompute is not None:
        recompute(model, recipe.recompute)
    if recipe.compile:
        model.compile()  # in place, so that no name in its state changes
    return model


def recompute(model: nn.Module, pattern: str) -> None:
    """Let the modules whose names match a pattern forget their activations, and compute them again in backward.

    Chen et al. 2016, "Training deep nets with sublinear memory cost" (arXiv:1604.06174).

    Args:
        pattern: a name, in which * stands for anything but a dot: "blocks.*"

    Raises:
        UserError: where no module's name matches
    """
    form = re.compile(re.escape(pattern).replace(r"\*", r"[^.]*"))
    named = list(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))[1:]  # without the model itself
    found = [module for name, module in named if form.fullmatch(name)]
    if not found:
        names = ", ".join(name for name, _ in named[:7])
        raise UserError(f"recompute={pattern!r}: no module has such a name; they are {names} ...")
    for module in found:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
