"""One training as data, and what runs it: what is faulty differs from a sound one in a word or two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surefoot as sf
from benchmarks.diagnose.families import FAMILIES, Family


@dataclass(frozen=True)
class Setting:
    """A training. Functions are of the fault's making; all else is a number or a word."""

    family: str
    style: str = "module"  # or "function", "accumulate", "autocast", "late-clear", "ours", "scheduler"
    optimizer: str = "adam"
    lr: float = 3e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    width: int = 32
    depth: int = 2
    act: Callable[[], nn.Module] = nn.ReLU
    norm: bool = False
    dropout: float = 0.0
    last: Callable[[], nn.Module] | None = None
    loss: Callable[..., Any] | None = None
    steps: int = 250
    batch: int = 32
    items: int | None = None
    scale: float = 1.0
    shift: float = 0.0
    target_scale: float = 1.0
    target_shift: float = 0.0
    val_scale: float = 1.0
    val_labels: Callable[[Tensor], Tensor] | None = None
    labels: Callable[[Tensor], Tensor] | None = None
    order: str = "shuffled"
    poison: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    init: Callable[[nn.Module], Any] | None = None
    factor: Callable[[float, int], float] | None = None  # of the rate: of the share of the training, and the step
    clip: float | None = None
    clear: bool = True
    step_every: int = 1
    weight: float = 1.0
    scaler: float | None = None
    unscale: bool = True
    growth: int = 10**6  # steps after which the loss scale doubles
    mode: str = "train"  # or "eval": training in evaluation mode
    validate: str = "eval"  # or "train", "none"
    wire: Callable[[nn.Module], Any] | None = None
    remake: bool = False  # the optimizer, at each step
    half: bool = False
    wait: float = 0.0
    warmup: float = 0.0

    @property
    def of(self) -> Family:
        return FAMILIES[self.family]

    def ending(self) -> list[nn.Module]:
        return [self.last()] if self.last is not None else []


def sound(family: str, **changes: Any) -> Setting:
    """A family's sound training."""
    return replace(Setting(family), **{**FAMILIES[family].sound, **changes})


@dataclass
class Outcome:
    """What a run gave: the losses, the error on sound validation data, the findings, when each cause was told."""

    losses: list[float]
    error: float
    findings: list[Any] = field(default_factory=list[Any])
    told: dict[str, int] = field(default_factory=dict[str, int])
    norms: list[float] = field(default_factory=list[float])
    val: list[float] = field(default_factory=list[float])


class Nobody:
    """In the place of a watch: sees nothing."""

    findings: tuple[Any, ...] = ()

    def observe(self, **_: Any) -> None: ...

    def validated(self, **_: Any) -> None: ...

    def close(self) -> None: ...


def standard_loss(kind: str) -> Any:
    if kind in ("binary", "labels"):
        return nn.BCEWithLogitsLoss()
    return nn.MSELoss() if kind == "numbers" else nn.CrossEntropyLoss()


def flat(out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets as losses over classes take them."""
    return (out.flatten(0, 1), y.flatten()) if out.ndim == 3 and y.ndim == 2 else (out, y)


def optimizer_of(s: Setting, params: Any) -> Any:
    ours = sf.optim if s.style == "ours" else torch.optim
    if s.optimizer == "sgd":
        return ours.SGD(params, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    if s.optimizer == "adamw":
        return ours.AdamW(params, lr=s.lr, weight_decay=s.weight_decay)
    return ours.Adam(params, lr=s.lr, weight_decay=s.weight_decay)


def prepared(s: Setting, seed: int) -> tuple[Tensor, ...]:
    """The data as the program sees them, and sound validation data."""
    x, y, vx, vy = s.of.data(seed)
    if s.items is not None:
        x, y = x[: s.items], y[: s.items]
    if x.is_floating_point():
        x, vx = x * s.scale + s.shift, vx * s.scale + s.shift
    if y.is_floating_point():
        y, vy = y * s.target_scale + s.target_shift, vy * s.target_scale + s.target_shift
    own = (vx * s.val_scale if vx.is_floating_point() else vx, (s.val_labels or s.labels or (lambda v: v))(vy))
    y = y if s.labels is None else s.labels(y)
    if s.order == "sorted":
        order = y.reshape(len(y), -1)[:, 0].argsort(stable=True)
        x, y = x[order], y[order]
    return x, y, vx, vy, *own


def run(s: Setting, seed: int, watching: bool = True) -> Outcome:
    """Train, watched or not."""
    torch.manual_seed(seed)
    x, y, vx, vy, own_x, own_y = prepared(s, seed)
    model = s.of.model(s)
    if s.init is not None:
        with torch.no_grad():
            s.init(model)
    model = model.to(torch.bfloat16) if s.half else model
    criterion = standard_loss(s.of.kind) if s.loss is None else s.loss()
    optimizer = optimizer_of(s, model.parameters() if s.wire is None else s.wire(model))
    outcome = Outcome([], float("nan"))
    module = criterion if isinstance(criterion, nn.Module) and s.style != "function" else None
    step = 0

    def tell(finding: Any) -> None:
        outcome.told.setdefault(finding.cause, step)

    w: Any = sf.watch(model, optimizer, loss=module, quiet=True, on_finding=tell) if watching else Nobody()
    base = [group["lr"] for group in optimizer.param_groups]
    scaler = (
        torch.amp.GradScaler("cpu", init_scale=s.scaler, growth_interval=s.growth) if s.scaler is not None else None
    )
    model.train(s.mode == "train")
    order: Iterator[Tensor] = iter(())
    parts = 2 if s.style == "accumulate" else 1
    for step in range(s.steps):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            share = step / s.steps
            factor = min(1.0, (step + 1) / (s.warmup * s.steps)) if s.warmup else 1.0
            group["lr"] = lr * factor * (s.factor(share, step) if s.factor is not None else 1.0)
        if s.clear and s.style != "late-clear":
            optimizer.zero_grad()
        for _ in range(parts):
            rows = next(order, None)
            if rows is None:
                if step and s.validate != "none":
                    validate(s, model, criterion, w, own_x, own_y, outcome)
                shuffled = torch.arange(len(x)) if s.order == "sorted" else torch.randperm(len(x))
                size = s.batch // parts or 1
                order = iter([shuffled[i : i + size] for i in range(0, len(x) - size + 1, size)])
                rows = next(order)
            if s.wait:
                time.sleep(s.wait)
            xb, yb = x[rows], y[rows]
            if s.poison is not None:
                xb, yb = s.poison(step, xb, yb)
            loss = forward(s, model, criterion, w, xb, yb, module is None, parts)
            total = loss * s.weight / parts if scaler is None else scaler.scale(loss * s.weight / parts)
            if total.requires_grad:
                total.backward()
        outcome.losses.append(float(loss.detach()))
        if scaler is not None and s.unscale:
            scaler.unscale_(optimizer)
        if s.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
        if s.remake:
            optimizer = optimizer_of(s, model.parameters())
        if step % s.step_every == s.step_every - 1:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        if s.clear and s.style == "late-clear":
            optimizer.zero_grad(set_to_none=False)
    w.close()
    outcome.findings = list(w.findings)
    outcome.error = error(s, model, vx, vy)
    return outcome


def forward(
    s: Setting, model: nn.Module, criterion: Any, w: Any, x: Tensor, y: Tensor, told: bool, parts: int
) -> Tensor:
    if s.half and x.is_floating_point():
        x = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=s.style == "autocast"):
        out, target = flat(model(x), y)
    out = out.float() if out.dtype != torch.float32 else out
    loss: Tensor = criterion(out, target)
    if told:
        w.observe(loss=loss, outputs=out, targets=target, inputs=x)
    return loss


@torch.no_grad()
def validate(s: Setting, model: nn.Module, criterion: Any, w: Any, x: Tensor, y: Tensor, outcome: Outcome) -> None:
    if s.validate == "eval":
        model.eval()
    x = x.bfloat16() if s.half and x.is_floating_point() else x
    out, target = flat(model(x), y)
    value = float(criterion(out.float(), target))
    outcome.val.append(value)
    w.validated(loss=value)
    model.train(s.mode == "train")


@torch.no_grad()
def error(s: Setting, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """What is wrong of sound validation data, from 0 to 1 or little more, whatever the program's loss is."""
    model.eval()
    x = x.bfloat16() if s.half and x.is_floating_point() else x
    out, y = flat(model(x).float(), y)
    if not bool(out.isfinite().all()):
        return 1.0
    if s.of.kind == "numbers":
        return min(1.5, float(((out - y) ** 2).mean() / y.var()))
    if s.of.kind in ("binary", "labels"):
        from sklearn.metrics import roc_auc_score

        return float(2 - 2 * roc_auc_score(y.numpy(), out.numpy(), average="macro"))
    return float((out.argmax(1) != y).float().mean())


def soft(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy as a plain function."""
    return F.cross_entropy(logits, y)
