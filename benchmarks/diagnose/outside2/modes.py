"""Training in evaluation mode, validating in training mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 evaluate() within the epoch leaves eval mode on",
    family="churn",
    causes="eval-mode",
    symptoms="silent overfitting",
)
def eval_within_epoch(watch: Watch, seed: int, mended: bool) -> float:
    """Every 25 steps a function evaluates and does not switch back; train() is called at each epoch's start alone."""
    torch.manual_seed(seed)
    data = parts.churn()
    model = parts.mlp(20, 96, 48, 4, norm=True, dropout=0.3)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    w = watch(model, optimizer, loss=criterion)

    def evaluate() -> float:
        model.eval()
        with torch.no_grad():
            return criterion(model(data.xv), data.yv).item()

    for _ in range(5):
        model.train()
        for i, (x, y) in enumerate(parts.loader(data.x, data.y)):
            if i % 25 == 2:
                w.validated(loss=evaluate())
                if mended:
                    model.train()
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty("2 model.eval without its brackets", family="housing", causes="train-mode", symptoms="silent")
def eval_without_brackets(watch: Watch, seed: int, mended: bool) -> float:
    """`model.eval` does nothing; the error reported, and returned here, is with dropout and batch statistics."""
    torch.manual_seed(seed)
    data = parts.scaled_housing()
    model = parts.mlp(6, 64, 64, 1, norm=True, dropout=0.2)
    criterion = nn.SmoothL1Loss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    reported = float("inf")
    for _ in range(6):
        model.train()
        for x, y in parts.loader(data.x, data.y[:, None]):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        model.eval  # noqa: B018
        if mended:
            model.eval()
        with torch.no_grad():
            reported = criterion(model(data.xv), data.yv[:, None]).item()
        w.validated(loss=reported)
    w.close()
    return reported


class _DropWriter(parts.Writer):
    """Uses the function, whose `training` is True unless told otherwise."""

    told = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.rnn(self.embed(x))[0]
        return self.out(F.dropout(h, 0.4, self.training) if self.told else F.dropout(h, 0.4))


@faulty("2 dropout as a function is never off", family="prose", causes="train-mode", symptoms="silent")
def functional_dropout(watch: Watch, seed: int, mended: bool) -> float:
    """`F.dropout(h, 0.4)` drops in evaluation mode also. The model's mode is right all along."""
    torch.manual_seed(seed)
    ids, held, kinds = parts.prose()
    model = _DropWriter(kinds)
    model.told = mended
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    xv, yv = parts.windows(held, 24, 100)
    w = watch(model, optimizer)
    for step in range(300):
        x, y = parts.windows(ids, 24, 16)
        logits = model(x)
        loss = parts.by_token(logits, y)
        w.observe(loss=loss, outputs=logits, targets=y, inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 60 == 59:
            model.eval()
            with torch.no_grad():
                w.validated(loss=parts.by_token(model(xv), yv).item())
            model.train()
    w.close()
    return parts.score(model, parts.by_token, xv, yv)
