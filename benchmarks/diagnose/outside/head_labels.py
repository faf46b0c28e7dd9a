"""What a network starts from and is told: equal weights, rare classes, labels of one value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "all weights constant",
    family="digit-vectors",
    causes="init-symmetric",
    symptoms="plateau loss-not-decreasing slow-convergence",
)
def constant_weights(watch: Watch, seed: int, mended: bool) -> float:
    """An own init_weights fills every layer with 0.05: all units of a layer stay alike."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            if mended:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            else:
                nn.init.constant_(module.weight, 0.05)
            nn.init.zeros_(module.bias)

    model.apply(init_weights)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(6):
        model.train()
        for x, y in batches(split.x, split.y, size=48):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "embeddings of ones",
    family="ratings",
    causes="init-symmetric",
    symptoms="plateau slow-convergence silent",
)
def embeddings_of_ones(watch: Watch, seed: int, mended: bool) -> float:
    """nn.init.constant_ on both tables: the four factors get one gradient, and stay one factor."""
    torch.manual_seed(seed)
    split = parts.ratings()
    model = parts.Factors()
    if not mended:
        nn.init.constant_(model.user.weight, 0.5)
        nn.init.constant_(model.item.weight, 0.5)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(9):
        for pair, rating in batches(split.x, split.y, size=100):
            optimizer.zero_grad()
            criterion(model(pair), rating).backward()
            optimizer.step()
        scheduler.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@torch.no_grad()
def _balanced_error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    found, true = model(x) > 0, y > 0.5
    missed = 1 - (found & true).sum() / true.sum()
    raised = (found & ~true).sum() / (~true).sum()
    return float(missed + raised) / 2


@faulty("three frauds in a hundred", family="fraud", causes="class-imbalance", symptoms="silent")
def rare_fraud(watch: Watch, seed: int, mended: bool) -> float:
    """A loss of 0.1 looks well, and no fraud is found: nobody weighs the rare class."""
    torch.manual_seed(seed)
    split = parts.fraud()
    model = parts.mlp(12, 16, 1)
    rate = split.y.mean()
    criterion = nn.BCEWithLogitsLoss(pos_weight=(1 - rate) / rate if mended else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(5):
        model.train()
        for x, y in batches(split.x, split.y, size=100):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return _balanced_error(model, split.vx, split.vy)


@faulty("specks in one pixel of a hundred", family="discs", causes="class-imbalance", symptoms="silent plateau")
def rare_pixels(watch: Watch, seed: int, mended: bool) -> float:
    """Masks with one pixel in a hundred on; plain BCE over pixels is low with an empty mask."""
    torch.manual_seed(seed)
    split = parts.discs(radius=1.0, noise=0.6)
    model = parts.mask_net(8)
    share = split.y.mean()
    weight = ((1 - share) / share) if mended else torch.tensor(1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=30, epochs=8):
        logits = model(x)
        loss = F.binary_cross_entropy_with_logits(logits, y, pos_weight=weight)
        w.observe(loss=loss, outputs=logits, targets=y, inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return _balanced_error(model, split.vx, split.vy)


@faulty("every row labelled benign", family="cancer", causes="labels-constant", symptoms="silent")
def every_label_one(watch: Watch, seed: int, mended: bool) -> float:
    """The labels are made by `diagnosis != "m"` where the file says "M": all of them become one."""
    torch.manual_seed(seed)
    split = parts.cancer()
    diagnosis = ["B" if one else "M" for one in split.y.flatten().tolist()]
    malign = "M" if mended else "m"
    y_train = torch.tensor([float(one != malign) for one in diagnosis]).unsqueeze(1)
    model = parts.mlp(30, 16, 1, dropout=0.2)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    model.train()
    for x, y in batches(split.x, y_train, size=32, epochs=10):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty("masks divided by 255 twice", family="discs", causes="labels-constant", symptoms="silent")
def empty_masks(watch: Watch, seed: int, mended: bool) -> float:
    """The masks are 0 and 1 already; an integer division by 255 makes them empty."""
    torch.manual_seed(seed)
    split = parts.discs()
    masks = split.y.to(torch.uint8)
    masks = masks if mended else masks // 255
    model = parts.mask_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    w = watch(model, optimizer)
    for _epoch in range(4):
        model.train()
        for image, mask in DataLoader(TensorDataset(split.x, masks), batch_size=25, shuffle=True):
            logits = model(image)
            loss = F.binary_cross_entropy_with_logits(logits, mask.float())
            w.observe(loss=loss, outputs=logits, targets=mask.float(), inputs=image)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    return loss_of(model, F.binary_cross_entropy_with_logits, split.vx, split.vy)
