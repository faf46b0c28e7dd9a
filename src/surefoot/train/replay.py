"""Finding the first number of a step that is none, in the step itself or from what a failed run has kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from surefoot.errors import UserError
from surefoot.record import Run
from surefoot.task.task import Outcome, Task
from surefoot.task.trees import tensors
from surefoot.train import prepare, rng
from surefoot.train.distributed import Processes
from surefoot.train.ledger import Laps
from surefoot.train.step import Step


def replay(run: Run, task: Task, device: torch.device) -> str:
    """Compute the failed step of a run again, and say what is its first tensor that holds a NaN or an infinity.

    Raises:
        UserError: where the run has kept no failed step
    """
    kept = run.failure
    if kept is None:
        raise UserError(f"the run in {run.dir} has kept no failed step: nothing is to be computed again")
    model = prepare.made(task, run.recipe, device)
    kept.load_model(model)
    model.train()
    state = kept.state()
    rng.restore(state["rng"], device)
    optimizer = run.recipe.create_optimizer(model)
    step = Step(task, model, optimizer, run.recipe, device, Laps(), Processes())
    return first_bad(model, step.outcome, state["batches"])


def first_bad(model: nn.Module, outcome_of: Callable[[Any], Outcome], batches: Sequence[Any]) -> str:
    """Where the first NaN or infinity of a step arises, in words; "" if there is none.

    It is looked for in the order of the computation: batch, parameters and buffers, the modules' outputs, the loss, the
    gradients of the modules' outputs (backwards), those of the parameters. Gradients are left behind.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = bad("the batch at", batches[0] if len(batches) == 1 else list(batches)) or bad("the model", state)
    if found:
        return found
    seen: list[str] = []
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    handles = [module.register_forward_hook(_watch(name, seen)) for name, module in named]
    try:
        for batch in batches:
            loss = outcome_of(batch).loss
            found = seen[0] if seen else bad("the loss", loss)
            if found:
                return found
            loss.backward()
            if seen:
                return seen[0]
    finally:
        for handle in handles:
            handle.remove()
    return bad("the gradient of", {name: p.grad for name, p in model.named_parameters()})


def bad(what: str, tree: Any) -> str:
    """The first tensor of a tree that holds a NaN or an infinity, in words."""
    for place, t in tensors(tree):
        if t.is_floating_point() or t.is_complex():
            count = int((~torch.isfinite(t.detach())).sum())
            if count:
                return f"{f'{what} {place}'.strip()}: {count} of {t.numel()} values are no numbers"
    return ""


def _watch(name: str, seen: list[str]) -> Callable[..., None]:
    """A forward hook that notes whether a module's output, or later its gradient, holds such a number."""

    def note(what: str, tree: Any) -> None:
        found = bad(what, tree)
        if found:
            seen.append(found)

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        what = f"the output of {name or 'the model'} ({type(module).__name__})"
        note(what, output)
        for place, t in tensors(output):
            if t.requires_grad:
                t.register_hook(partial(note, f"the gradient of {what} {place}".strip()))

    return hook
