"""One optimizer step: forward, loss, backward, update; on one batch or several, in the recipe's precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.diagnose.watch import Watch
from surefoot.engine.report import Report
from surefoot.errors import UserError
from surefoot.optim import Optimizer
from surefoot.task.recipe import Recipe
from surefoot.task.task import Outcome, Task
from surefoot.task.trees import mapped
from surefoot.train.data import to_device
from surefoot.train.distributed import Processes
from surefoot.train.ledger import Laps
from surefoot.train.memory import divided, ran_out, rows

log = logging.getLogger("surefoot")

ASK_EVERY = 16  # steps on a GPU between two questions whether another process wants to stop
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """Takes steps. Several batches to a step give the gradient of the one large batch:

        g = sum_i n_i grad(mean_i) / sum_i n_i

    where n_i is what the mean of batch i is over: items, tokens, or whatever `(sum, count)` counts, over all processes.
    Where memory runs out, the step is taken again with each batch in parts, which give the same gradient; batch norm
    sees the parts. That stays so.

    parts: how many parts a batch is divided into
    watch: is told of each loss
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        recipe: Recipe,
        device: torch.device,
        laps: Laps,
        processes: Processes,
    ) -> None:
        self.task, self.model, self.optimizer, self.device = task, model, optimizer, device
        self.laps, self.processes = laps, processes
        self.parts = 1
        self.scaler = torch.amp.GradScaler(device.type) if recipe.precision == "fp16" else None
        self.measure = recipe.batch_size
        self.asked, self.flag = False, 0.0
        self.watch: Watch | None = None
        self.channels_last = recipe.channels_last
        self.autocast: Callable[[], AbstractContextManager[Any]] | None = None
        if recipe.precision in DTYPES:
            self.autocast = partial(torch.autocast, device.type, DTYPES[recipe.precision])

    def __call__(self, batches: Sequence[Any]) -> tuple[Tensor, Report]:
        """Take a step; returns the mean loss, as a tensor that nobody has waited for, and the optimizer's report."""
        try:
            return self._step(batches)
        except Exception as error:
            if not ran_out(error):
                raise
            self._divide(batches, error)
        return self(batches)

    def outcome(self, batch: Any) -> Outcome:
        """The task's loss on a batch, in the recipe's precision."""
        batch = to_device(batch, self.device)
        if self.channels_last:
            batch = mapped(batch, channels_last)
        if self.autocast is None:
            return self.task.outcome(self.model, batch)
        with self.autocast():
            return self.task.outcome(self.model, batch)

    def watched(self, batch: Any) -> Outcome:
        """The same, and the watch is told of it."""
        outcome = self.outcome(batch)
        if self.watch is not None:
            self.watch.observe(outcome.loss, outcome.outputs, outcome.targets)
        return outcome

    def all_asked(self, asked: bool, step: int) -> bool:
        """Whether any process has been asked to stop: it is told with the next step, so that all stop after the same.

        Args:
            asked: whether this one has
            step: how many steps were taken; on a GPU only some look, since looking waits for it
        """
        self.asked = asked
        return bool(self.flag) if self.device.type == "cpu" or step % ASK_EVERY == 0 else False

    def state_dict(self) -> dict[str, Any]:
        return {"parts": self.parts, "scaler": {} if self.scaler is None else self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts = state["parts"]
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _step(self, batches: Sequence[Any]) -> tuple[Tensor, Report]:
        self._clear()
        if len(batches) == 1 and self.parts == 1 and self.processes.world == 1:
            loss = self.watched(batches[0]).loss
            self.laps.lap("forward")
            self._backward(loss)
        else:
            loss = self._together([part for batch in batches for part in divided(batch, self.parts)])
        self.laps.lap("backward")
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.laps.lap("step")
        report = self.optimizer.last
        assert report is not None
        return loss.detach().view(()), report

    def _together(self, parts: list[Any]) -> Tensor:
        """The gradient of all parts as if they were one batch; returns their mean loss."""
        # all counts are in this measure, so that no loss leaves its precision's range; processes need a common one
        measure: Any = self.measure if self.processes.world > 1 else None
        total: Any = 0.0
        count: Any = 0.0
        for i, part in enumerate(parts):
            with self.processes.exchanging(self.model, last=i == len(parts) - 1):
                outcome = self.watched(part)
                self.laps.lap("forward")
                measure = outcome.count if measure is None else measure
                weight = outcome.count / measure / len(parts)
                self._backward(outcome.loss * weight)
            total = total + outcome.loss.detach() * weight
            count = count + weight
            self.laps.lap("backward")
        total, count, self.flag = self.processes.sums(total, count, float(self.asked))
        self._multiply(self.processes.world / count)  # processes exchange the mean of their gradients
        return total / count

    def _multiply(self, factor: Any) -> None:
        if isinstance(factor, Tensor) or factor != 1:
            grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            cast(Any, torch)._foreach_mul_(grads, factor)

    def _clear(self) -> None:
        """What `optimizer.zero_grad()` does, which takes ten times as long to tell a profiler of it."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def _backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _divide(self, batches: Sequence[Any], error: Exception) -> None:
        """Have batches divided further; where they are single items already, there is nothing more to be done."""
        largest = max(rows(batch) for batch in batches)
        if self.parts >= largest:
            raise UserError(
                f"memory has run out, and a batch cannot be divided further ({self.parts} parts): make the model "
                'smaller, or let activations be computed again (recompute="blocks.*")'
            ) from error
        self.parts *= 2
        self._clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("memory has run out: each batch is divided into %d parts from now on", self.parts)


def channels_last(t: Tensor) -> Tensor:
    """Images in the memory format that convolutions like; other tensors as they are."""
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
