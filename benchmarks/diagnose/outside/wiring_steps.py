"""Steps that change nothing or go the wrong way: frozen, rounded away, left out, the wrong sign."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "optimizer over the frozen backbone",
    family="digit-images",
    causes="frozen-in-optimizer not-in-optimizer",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def frozen_backbone(watch: Watch, seed: int, mended: bool) -> float:
    """The backbone is frozen for a linear probe, and yet it is the backbone that SGD gets; the head never moves."""
    torch.manual_seed(seed)
    split = parts.digits()
    backbone = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(backbone, nn.Linear(64, 10))
    for x, y in batches(split.x, split.y, size=64, epochs=3):  # the pretraining
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= 0.1 * param.grad
    model.zero_grad()
    for param in backbone.parameters():
        param.requires_grad = False
    model[1] = nn.Linear(64, 10)
    criterion = nn.CrossEntropyLoss()
    trained = model[1] if mended else backbone
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.02, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=64, epochs=5):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "unfreezing by a module attribute",
    family="token-counts",
    causes="frozen-in-optimizer",
    symptoms="plateau slow-convergence loss-not-decreasing silent",
)
def attribute_unfreeze(watch: Watch, seed: int, mended: bool) -> float:
    """After a copy of the template was made, `module.requires_grad = True` unfreezes nothing: it only sets a name."""
    torch.manual_seed(seed)
    split = parts.token_counts()
    template = parts.TokenNet().requires_grad_(False)
    model = copy.deepcopy(template)
    for module in (model.embed, model.encoder, model.head):
        module.requires_grad = True
    model.head.requires_grad_(True)
    if mended:
        model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    criterion = nn.CrossEntropyLoss()
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        model.train()
        for x, y in batches(split.x, split.y, size=64):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


class _HomeMadeSGD(torch.optim.Optimizer):
    """Somebody's own SGD; `rebind` computes the new weights and throws them away."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, rebind: bool, sign: float = -1.0) -> None:
        super().__init__(params, {"lr": lr})
        self.rebind, self.sign = rebind, sign

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if self.rebind:
                    p = p + self.sign * group["lr"] * p.grad
                else:
                    p.add_(p.grad, alpha=self.sign * group["lr"])


@faulty(
    "own SGD that rebinds the name",
    family="wine",
    causes="step-without-effect",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def rebinding_sgd(watch: Watch, seed: int, mended: bool) -> float:
    """A home-made optimizer writes `p = p - lr * p.grad`, which makes a new tensor and leaves the weight."""
    torch.manual_seed(seed)
    split = parts.standard(parts.raw("wine"))
    model = nn.Sequential(nn.Linear(13, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = _HomeMadeSGD(model.parameters(), lr=0.3, rebind=not mended)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=32, epochs=40):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "master weights never copied back",
    family="friedman",
    causes="step-without-effect not-in-optimizer",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def masters_not_copied(watch: Watch, seed: int, mended: bool) -> float:
    """A bfloat16 model with float32 master weights: the masters get gradients and steps, the model nothing."""
    torch.manual_seed(seed)
    split = parts.friedman()
    model = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 1)).bfloat16()
    masters = [nn.Parameter(p.detach().float().clone()) for p in model.parameters()]
    optimizer = torch.optim.Adam(masters, lr=0.01)
    criterion = nn.MSELoss()
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(10):
        model.train()
        for x, y in batches(split.x, split.y, size=64):
            model.zero_grad()
            loss = criterion(model(x.bfloat16()), y.bfloat16())
            loss.backward()
            for master, p in zip(masters, model.parameters(), strict=True):
                master.grad = p.grad.float()
            optimizer.step()
            if mended:
                with torch.no_grad():
                    for master, p in zip(masters, model.parameters(), strict=True):
                        p.copy_(master)
    w.close()
    return loss_of(model.float(), criterion, split.vx, split.vy)


@faulty(
    "weights rounded to a grid after each step",
    family="digit-vectors",
    causes="step-without-effect",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def rounded_to_a_grid(watch: Watch, seed: int, mended: bool) -> float:
    """Quantisation by hand: every step's change is smaller than half of the grid, and is rounded away."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = parts.mlp(64, 64, 10)

    @torch.no_grad()
    def quantise(levels: float = 16.0) -> None:
        for p in model.parameters():
            p.copy_((p * levels).round() / levels)

    quantise()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=64, epochs=8):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        if not mended:
            quantise()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "scheduler.step in place of optimizer.step",
    family="iris",
    causes="not-stepped",
    symptoms="loss-not-decreasing no-op-step plateau",
)
def scheduler_steps_alone(watch: Watch, seed: int, mended: bool) -> float:
    """The batch loop calls the scheduler's step and never the optimizer's."""
    torch.manual_seed(seed)
    split = parts.standard(parts.raw("iris"))
    model = parts.mlp(4, 16, 3)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=210)
    for x, y in batches(split.x, split.y, size=16, epochs=30):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        if mended:
            optimizer.step()
        scheduler.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "a new SGD for every batch",
    family="tags",
    causes="not-stepped",
    symptoms="slow-convergence no-op-step silent",
)
def sgd_made_anew(watch: Watch, seed: int, mended: bool) -> float:
    """The optimizer is made inside the function that trains on one batch, so that SGD forgets its momentum."""
    torch.manual_seed(seed)
    split = parts.tags()
    model = parts.mlp(20, 24, 6)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)

    def train_batch(x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer | None = None) -> float:
        optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    for x, y in batches(split.x, split.y, size=60, epochs=10):
        train_batch(x, y, optimizer if mended else None)
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "maximize left on",
    family="cancer",
    causes="sign-flipped",
    symptoms="diverging exploding-gradient loss-not-decreasing",
)
def maximize_left_on(watch: Watch, seed: int, mended: bool) -> float:
    """Options copied from a policy-gradient script: maximize=True, with a loss that is to fall."""
    torch.manual_seed(seed)
    split = parts.cancer()
    model = parts.mlp(30, 16, 1, dropout=0.2)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3, weight_decay=1e-3, maximize=not mended)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(10):
        model.train()
        for x, y in batches(split.x, split.y, size=32):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "own SGD with a plus",
    family="tags",
    causes="sign-flipped",
    symptoms="diverging loss-not-decreasing exploding-gradient",
)
def plus_for_minus(watch: Watch, seed: int, mended: bool) -> float:
    """A home-made optimizer adds the gradient."""
    torch.manual_seed(seed)
    split = parts.tags()
    model = parts.mlp(20, 24, 6)
    optimizer = _HomeMadeSGD(model.parameters(), lr=0.5, rebind=False, sign=-1.0 if mended else 1.0)
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=60, epochs=10):
        model.zero_grad()
        logits = model(x)
        loss = F.binary_cross_entropy_with_logits(logits, y)
        w.observe(loss=loss, outputs=logits, targets=y, inputs=x)
        loss.backward()
        optimizer.step()
    w.close()
    error = loss_of(model, F.binary_cross_entropy_with_logits, split.vx, split.vy)
    return error if error == error else float("inf")
