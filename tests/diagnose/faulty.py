"""Small faulty trainings, one or more for each cause, and sound ones beside them: what `sf.watch` must tell apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surefoot as sf


@dataclass(frozen=True)
class Setting:
    """One training; what is faulty differs from a sound one in a word or two."""

    data: str = "blobs"
    model: Callable[[int, int], nn.Module] | None = None
    width: int = 32
    depth: int = 2
    act: Callable[[], nn.Module] = nn.ReLU
    last: Callable[[], nn.Module] | None = None
    loss: Callable[..., Any] | None = None
    observe: bool = False
    optimizer: Callable[..., Any] = torch.optim.Adam
    lr: float = 3e-3
    options: tuple[tuple[str, Any], ...] = ()
    steps: int = 300
    batch: int = 32
    scale: float = 1.0
    shift: float = 0.0
    target_scale: float = 1.0
    target_shift: float = 0.0
    init: Callable[[nn.Module], None] | None = None
    labels: Callable[[Tensor], Tensor] | None = None
    sort: bool = False
    factor: Callable[[int], float] | None = None
    clear: bool = True
    step_every: int = 1
    clip: float | None = None
    scaler: float | None = None
    unscale: bool = True
    eval_mode: bool = False
    validate: str = ""  # "", "eval", "train"
    val_scale: float = 1.0
    weight: float = 1.0
    wire: Callable[[nn.Module], Any] | None = None
    wait: float = 0.0
    poison: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    items: int = 1024
    batches_to: torch.dtype | None = None
    dropout: float = 0.0
    norm: bool = False
    half: bool = False
    make: bool = False


def data_of(s: Setting, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = s.items + 256
    if s.data in ("blobs", "binary", "multi"):
        x = torch.randn(n, 12, generator=g)
        w = torch.randn(12, 16, generator=g)
        hidden = torch.tanh(x @ w / 2)
        scores = hidden @ torch.randn(16, 5, generator=g)
        y: Tensor = scores.argmax(1)
        if s.data == "binary":
            y = (scores[:, :1] > 0).float()
        if s.data == "multi":
            y = (scores > 0).float()
    elif s.data == "regress":
        x = torch.randn(n, 12, generator=g)
        hidden = torch.tanh(x @ torch.randn(12, 8, generator=g) / 2)
        y = hidden @ torch.randn(8, 1, generator=g) / 2 + 0.1 * torch.randn(n, 1, generator=g)
        y = (y - y.mean()) / y.std()
    else:  # images
        y = torch.randint(0, 4, (n,), generator=g)
        x = torch.randn(n, 1, 8, 8, generator=g) * 0.7
        for k in range(4):
            x[y == k, :, 2 * (k // 2) : 2 * (k // 2) + 4, 3 * (k % 2) : 3 * (k % 2) + 4] += 1.0
    x = x * s.scale + s.shift
    y = y * s.target_scale + s.target_shift if y.is_floating_point() else y
    y = s.labels(y) if s.labels is not None else y
    x, y, vx, vy = x[: s.items], y[: s.items], x[s.items :] * s.val_scale, y[s.items :]
    if s.sort:
        order = y.reshape(len(y), -1)[:, 0].argsort()
        x, y = x[order], y[order]
    return x, y, vx, vy


def model_of(s: Setting, inputs: int, outputs: int) -> nn.Module:
    if s.model is not None:
        return s.model(inputs, outputs)
    parts: list[nn.Module] = []
    if s.data == "images":
        parts = [nn.Conv2d(1, 8, 3, padding=1), s.act(), nn.Conv2d(8, 8, 3, padding=1), s.act(), nn.Flatten()]
        width = 8 * 64
    else:
        width = inputs
    for _ in range(s.depth):
        parts += [nn.Linear(width, s.width), *([nn.BatchNorm1d(s.width)] if s.norm else []), s.act()]
        parts += [nn.Dropout(s.dropout)] if s.dropout else []
        width = s.width
    parts += [nn.Linear(width, outputs), *([s.last()] if s.last is not None else [])]
    return nn.Sequential(*parts)


def run(s: Setting, seed: int = 0, watch: Any = None) -> Any:
    """Train; returns the closed watch and the losses."""
    torch.manual_seed(seed)
    x, y, vx, vy = data_of(s, seed)
    outputs = 1 if s.data in ("binary", "regress") else 4 if s.data == "images" else 5
    model = model_of(s, x.shape[1] if x.ndim == 2 else 0, outputs)
    if s.init is not None:
        with torch.no_grad():
            s.init(model)
    if s.half:
        model = model.to(torch.bfloat16)
    criterion: Any = s.loss
    if criterion is None:
        criterion = {"binary": nn.BCEWithLogitsLoss, "multi": nn.BCEWithLogitsLoss, "regress": nn.MSELoss}.get(
            s.data, nn.CrossEntropyLoss
        )()
    elif isinstance(criterion, type) or s.make:
        criterion = criterion()
    params = s.wire(model) if s.wire is not None else model.parameters()
    optimizer = s.optimizer(params, lr=s.lr, **dict(s.options))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, s.factor) if s.factor is not None else None
    scaler = torch.amp.GradScaler("cpu", init_scale=s.scaler, growth_interval=10**6) if s.scaler is not None else None
    module = criterion if isinstance(criterion, nn.Module) and not s.observe else None
    w = (watch or sf.watch)(model, optimizer, loss=module, quiet=True)
    losses: list[float] = []
    model.train(not s.eval_mode)
    order: Iterator[Tensor] = iter(())
    for step in range(s.steps):
        rows = next(order, None)
        if rows is None:
            shuffled = torch.arange(len(x)) if s.sort else torch.randperm(len(x))
            order = iter([shuffled[i : i + s.batch] for i in range(0, len(x) - s.batch + 1, s.batch)])
            rows = next(order)
            if s.validate and step:
                validate(s, model, criterion, w, vx, vy)
        xb, yb = x[rows], y[rows]
        if s.wait:
            time.sleep(s.wait)
        if s.poison is not None:
            xb, yb = s.poison(step, xb, yb)
        if s.half:
            xb = xb.bfloat16()
        if s.clear:
            optimizer.zero_grad()
        out = model(xb)
        loss = criterion(out.float() if s.half else out, yb)
        total = loss * s.weight
        if module is None:
            w.observe(loss=total, outputs=out, targets=yb, inputs=xb)
        losses.append(float(loss.detach()))
        if scaler is not None:
            scaler.scale(total).backward()
            if s.unscale:
                scaler.unscale_(optimizer)
        elif total.requires_grad:
            total.backward()
        if s.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
        if step % s.step_every == s.step_every - 1:
            if scaler is not None:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        if schedule is not None:
            schedule.step()
    w.close()
    return w, losses


@torch.no_grad()
def validate(s: Setting, model: nn.Module, criterion: Any, w: Any, x: Tensor, y: Tensor) -> None:
    if s.validate == "eval":
        model.eval()
    loss = criterion(model(x), y)
    if s.observe:
        w.observe(loss=loss, outputs=None, targets=y, inputs=x)
    w.validated(loss=float(loss))
    model.train(not s.eval_mode)


def each(function: Callable[[Tensor], Any]) -> Callable[[nn.Module], None]:
    """An initialization that is applied to all matrices."""

    def init(model: nn.Module) -> None:
        for p in model.parameters():
            if p.ndim > 1:
                function(p)

    return init


SOUND = Setting()
REGRESS = replace(SOUND, data="regress")
IMAGES = replace(SOUND, data="images", depth=1)
BINARY = replace(SOUND, data="binary")
MULTI = replace(SOUND, data="multi")
SGD: dict[str, Any] = {"optimizer": torch.optim.SGD, "lr": 0.1, "options": (("momentum", 0.9),)}


class Detached(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(inputs, 32), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)).detach())


def poisoned(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x * 300, y) if step % 64 == 40 else (x, y)


def with_nan(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if step == 50:
        x = x.clone()
        x[0, 0] = float("nan")
    return x, y


def shuffled(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]


def rare(y: Tensor) -> Tensor:
    keep = torch.rand(len(y), generator=torch.Generator().manual_seed(2)) < 0.03
    return torch.where(keep, y, torch.zeros_like(y))


def freeze(model: nn.Module) -> Any:
    for p in model.parameters():
        p.requires_grad_(False)
    list(model.parameters())[-1].requires_grad_(True)
    return list(model.parameters())[:-1]


CASES: dict[str, tuple[str, Setting]] = {
    "rate of 30": ("lr-too-high", replace(SOUND, **{**SGD, "lr": 5.0})),
    "adam at 1": ("lr-too-high", replace(SOUND, lr=1.0)),
    "regression adam at 3": ("lr-too-high", replace(REGRESS, lr=1.0)),
    "images sgd": ("lr-too-high", replace(IMAGES, **{**SGD, "lr": 3.0})),
    "adam at 1e-6": ("lr-too-low", replace(SOUND, lr=3e-6)),
    "sgd at 1e-5": ("lr-too-low", replace(REGRESS, **{**SGD, "lr": 1e-5})),
    "images adam 1e-6": ("lr-too-low", replace(IMAGES, lr=1e-6)),
    "rate ends at 0": ("lr-zero", replace(SOUND, factor=lambda t: max(0.0, 1 - t / 60))),
    "rate is 0": ("lr-zero", replace(REGRESS, lr=0.0)),
    "halved each step": ("schedule-too-fast", replace(SOUND, factor=lambda t: 0.9**t)),
    "halved each step, sgd": ("schedule-too-fast", replace(REGRESS, **{**SGD, "lr": 0.03}, factor=lambda t: 0.85**t)),
    "no zero_grad": ("grad-not-cleared", replace(SOUND, clear=False)),
    "no zero_grad sgd": ("grad-not-cleared", replace(REGRESS, **{**SGD, "lr": 0.02}, clear=False)),
    "detached body": ("no-gradient", replace(SOUND, model=Detached)),
    "head alone": ("not-in-optimizer", replace(SOUND, wire=lambda m: m[-1].parameters())),
    "bias left out": (
        "not-in-optimizer",
        replace(IMAGES, wire=lambda m: [p for p in m.parameters() if p.ndim > 1][1:]),
    ),
    "frozen": ("frozen-in-optimizer", replace(SOUND, wire=freeze)),
    "bf16 weights": ("step-without-effect", replace(REGRESS, half=True, optimizer=torch.optim.SGD, lr=1e-5)),
    "clip of scaled": ("scaled-clip", replace(SOUND, **SGD, scaler=65536.0, unscale=False, clip=1.0)),
    "clip of scaled 2": (
        "scaled-clip",
        replace(REGRESS, **{**SGD, "lr": 0.02}, scaler=16384.0, unscale=False, clip=0.5),
    ),
    "eval mode": ("eval-mode", replace(SOUND, eval_mode=True, norm=True)),
    "eval mode, dropout": ("eval-mode", replace(MULTI, eval_mode=True, dropout=0.3)),
    "validates in train mode": ("train-mode", replace(SOUND, norm=True, validate="train")),
    "validates in train mode 2": ("train-mode", replace(REGRESS, dropout=0.3, validate="train")),
    "softmax before cross-entropy": ("output-activation", replace(SOUND, last=lambda: nn.Softmax(1))),
    "relu before cross-entropy": ("output-activation", replace(IMAGES, last=nn.ReLU)),
    "sigmoid before logits": ("output-activation", replace(BINARY, last=nn.Sigmoid)),
    "softmax over one": ("output-activation", replace(BINARY, last=lambda: nn.Softmax(1), loss=nn.BCELoss)),
    "sigmoid against any": ("output-range", replace(REGRESS, last=nn.Sigmoid)),
    "relu against any": ("output-range", replace(REGRESS, last=nn.ReLU)),
    "bce of 0 to 4": ("loss-mismatch", replace(BINARY, target_scale=2.0)),
    "[n,1] with [n]": ("shape-broadcast", replace(REGRESS, labels=lambda y: y[:, 0])),
    "inputs of 300": ("input-unscaled", replace(SOUND, scale=300.0, **{**SGD, "lr": 0.05})),
    "inputs of 1e-4": ("input-unscaled", replace(SOUND, scale=1e-4, **{**SGD, "lr": 0.05})),
    "targets of 500": ("target-unscaled", replace(REGRESS, target_scale=500.0, target_shift=300.0)),
    "nan in data": ("non-finite-input", replace(SOUND, poison=with_nan)),
    "one label": ("labels-constant", replace(SOUND, labels=lambda y: y * 0 + 2)),
    "one target": ("labels-constant", replace(REGRESS, labels=lambda y: y * 0 + 0.5)),
    "val unscaled": ("train-val-mismatch", replace(SOUND, validate="eval", val_scale=255.0)),
    "sorted": ("data-order", replace(SOUND, sort=True)),
    "sorted regression": ("data-order", replace(REGRESS, sort=True)),
    "shuffled labels": ("data-unlearnable", replace(SOUND, labels=shuffled, items=8192)),
    "shuffled targets": ("data-unlearnable", replace(REGRESS, labels=shuffled, items=8192)),
    "a batch of 300": ("bad-batch", replace(SOUND, poison=poisoned)),
    "large init": ("init-too-large", replace(SOUND, init=each(lambda p: p.mul_(25)))),
    "large init, regression": ("init-too-large", replace(REGRESS, init=each(lambda p: nn.init.normal_(p, 0, 2.0)))),
    "small init": ("init-too-small", replace(SOUND, depth=5, init=each(lambda p: p.mul_(0.03)), **SGD)),
    "constant init": ("init-symmetric", replace(SOUND, init=each(lambda p: p.fill_(0.1)))),
    "zero init": ("init-symmetric", replace(SOUND, init=each(lambda p: p.zero_()))),
    "dead": ("dead-units", replace(SOUND, init=lambda m: next(p.fill_(-30) for p in m.parameters() if p.ndim == 1))),
    "deep sigmoid": ("deep-vanishing", replace(SOUND, depth=10, act=nn.Sigmoid)),
    "deep sigmoid sgd": ("deep-vanishing", replace(REGRESS, depth=10, act=nn.Sigmoid, **SGD)),
    "deep exploding": (
        "deep-exploding",
        replace(SOUND, depth=14, width=24, act=nn.Identity, init=each(lambda p: p.mul_(6)), **{**SGD, "lr": 0.01}),
    ),
    "sum": ("loss-sum", replace(REGRESS, make=True, loss=lambda: nn.MSELoss(reduction="sum"), **{**SGD, "lr": 0.02})),
    "sum ce": (
        "loss-sum",
        replace(SOUND, make=True, loss=lambda: nn.CrossEntropyLoss(reduction="sum"), **{**SGD, "lr": 0.1}),
    ),
    "negated": ("sign-flipped", replace(SOUND, weight=-1.0)),
    "negated observed": ("sign-flipped", replace(REGRESS, weight=-1.0, observe=True)),
    "tiny batch": ("batch-too-small", replace(SOUND, batch=1, **{**SGD, "lr": 0.05})),
    "huge batch": ("batch-too-large", replace(SOUND, batch=1024, steps=30, optimizer=torch.optim.SGD, lr=0.1)),
    "short": ("undertrained", replace(SOUND, steps=40, lr=1e-3)),
    "decay of 1": ("over-regularised", replace(SOUND, options=(("weight_decay", 0.3),))),
    "decoupled decay": (
        "over-regularised",
        replace(REGRESS, optimizer=torch.optim.AdamW, options=(("weight_decay", 30.0),)),
    ),
    "dropout of .95": ("over-regularised", replace(SOUND, dropout=0.95)),
    "width of 1": ("too-little-capacity", replace(SOUND, width=1, depth=1, steps=600)),
    "memorises": ("overtrained", replace(SOUND, items=48, validate="eval", steps=400, batch=16)),
    "clip of 1e-3": ("clip-too-tight", replace(SOUND, **SGD, clip=1e-3)),
    "clip of 1e-3 r": ("clip-too-tight", replace(REGRESS, **{**SGD, "lr": 0.05}, clip=1e-3)),
    "never steps": ("not-stepped", replace(SOUND, step_every=10**9)),
    "steps rarely": ("not-stepped", replace(SOUND, step_every=50)),
    "rare classes": ("class-imbalance", replace(SOUND, labels=rare, steps=200)),
    "waits": ("input-bound", replace(SOUND, wait=0.004, steps=100)),
}

SOUNDS: dict[str, Setting] = {
    "mlp": SOUND,
    "mlp sgd": replace(SOUND, **SGD),
    "regression": REGRESS,
    "regression sgd": replace(REGRESS, **{**SGD, "lr": 0.02}),
    "images": IMAGES,
    "binary": BINARY,
    "multi": replace(MULTI, observe=True, loss=F.binary_cross_entropy_with_logits),
    "batch norm": replace(SOUND, norm=True, validate="eval"),
    "warm-up": replace(SOUND, factor=lambda t: min(1.0, (t + 1) / 50)),
    "cosine": replace(SOUND, factor=lambda t: 0.5 + 0.5 * torch.tensor(3.1415 * t / 300).cos().item()),
    "clipped": replace(SOUND, clip=1.0, **SGD),
    "scaler": replace(SOUND, scaler=1024.0, clip=1.0),
    "tanh": replace(SOUND, act=nn.Tanh),
    "long": replace(SOUND, steps=1500, items=20000),
    "accumulates": replace(SOUND, step_every=1, batch=64),
    "own adamw": replace(SOUND, optimizer=sf.optim.AdamW),
    "own sgd clip": replace(SOUND, optimizer=sf.optim.SGD, lr=0.1, options=(("momentum", 0.9), ("clip_norm", 1.0))),
}
