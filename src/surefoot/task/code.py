"""A recipe as plain PyTorch code: the guide's complete template (section 7), filled in."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from surefoot.engine.options import NAMES as ENGINE
from surefoot.errors import UserError
from surefoot.optim import registry
from surefoot.schedule import parse
from surefoot.schedule.source import plain_python

if TYPE_CHECKING:
    from surefoot.task.recipe import Recipe

# settings that would make another program of the template; `nonfinite` is what happens in no sound training
OURS = (
    "steps", "seconds", "accumulate", "precision", "ema", "evaluate_every", "keep_best", "early_stop", "compile",
    "channels_last", "recompute",
)  # fmt: skip
TEMPLATE = """\
import math

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader


{definitions}


def train(make_model, criterion, train_set, val_set, device="cpu"):
    torch.manual_seed({seed})
    model = make_model().to(device)
    train_loader = DataLoader(train_set, batch_size={batch_size}, shuffle=True)
    val_loader = DataLoader(val_set, batch_size={batch_size})

    optimizer = torch.optim.{optimizer}(model.parameters(), {arguments})
    total = {total}

    def factor(t):
        # {schedule}, in {unit}s
        return {factor}

    scheduler = LambdaLR(optimizer, factor)
    best = math.inf

    for epoch in range({epochs}):
        model.train()
        for inputs, targets in train_loader:
            inputs, targets = inputs.to(device), targets.to(device)

            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
{after_backward}
        model.eval()
        loss_sum = count = 0
        with torch.no_grad():
            for inputs, targets in val_loader:
                inputs, targets = inputs.to(device), targets.to(device)
                loss_sum += criterion(model(inputs), targets).item() * len(targets)
                count += len(targets)
        val_loss = loss_sum / count
        print(f"epoch {{epoch + 1}}: validation loss {{val_loss:.4f}}")

        if val_loss < best:
            best = val_loss
            torch.save(model.state_dict(), "best_model.pth")
        torch.save(model.state_dict(), "last_model.pth")
    return model
"""


def plain_pytorch(recipe: Recipe) -> str:
    """Code of a function `train(make_model, criterion, train_set, val_set, device)` that needs torch alone."""
    from surefoot.task.recipe import SETTINGS

    entry = registry.entry(recipe.optimizer)
    if not hasattr(torch.optim, entry.factory.__name__) or entry.policy is not None:
        raise UserError(f"plain PyTorch has no {recipe.optimizer} as surefoot's is: train with sf.train")
    for name in OURS:
        if getattr(recipe, name) != SETTINGS[name].default:
            raise UserError(f"plain PyTorch code cannot have {name}={getattr(recipe, name)!r}: train with sf.train")
    optimizer = registry.entry(recipe.optimizer).factory.__name__
    if not hasattr(torch.optim, optimizer):
        raise UserError(f"plain PyTorch has no {optimizer}: choose another optimizer, or train with sf.train")
    per_step = recipe.schedule_every == "step"
    epoch = "len(train_loader)" if per_step else "1"
    units = {"ep": epoch, "st": f"{epoch} / len(train_loader)", "%": "total / 100"}
    definitions, factor = plain_python(parse(recipe.schedule), "total", units)
    steps = ["optimizer.step()"]
    if recipe.clip_norm is not None:
        steps.insert(0, f"torch.nn.utils.clip_grad_norm_(model.parameters(), {recipe.clip_norm})")
    inner = "".join(f"            {line}\n" for line in (*steps, *(["scheduler.step()"] if per_step else [])))
    return TEMPLATE.format(
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        optimizer=optimizer,
        arguments=", ".join(f"{name}={value!r}" for name, value in _arguments(recipe).items()),
        total=f"{recipe.epochs} * len(train_loader)" if per_step else recipe.epochs,
        schedule=recipe.schedule,
        unit=recipe.schedule_every,
        definitions=definitions.replace("\n\n", "\n\n\n"),
        factor=factor,
        after_backward=inner if per_step else inner + "        scheduler.step()\n",
    )


def _arguments(recipe: Recipe) -> dict[str, Any]:
    """What the optimizer is built with, as far as it differs from torch's own defaults; lr always."""
    entry = registry.entry(recipe.optimizer)
    chosen = {**entry.preset, **recipe.options, "weight_decay": recipe.weight_decay}
    torchs = inspect.signature(entry.factory).parameters  # the names and defaults of torch's class, then our own
    for name in chosen.keys() & set(ENGINE):
        raise UserError(f"plain PyTorch has no {name}: take it out of the recipe's options, or train with sf.train")
    own = {name: value for name, value in chosen.items() if name in torchs and value != torchs[name].default}
    return {"lr": recipe.lr, **own}
