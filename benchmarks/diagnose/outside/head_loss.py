"""Losses that do not fit: the wrong loss, shapes that broadcast, sums, scales."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.diagnose.healthy.common import batches, loss_of
from benchmarks.diagnose.outside import parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "digit regressed as a number",
    family="digit-vectors",
    causes="loss-mismatch",
    symptoms="silent slow-convergence",
)
def classes_by_mse(watch: Watch, seed: int, mended: bool) -> float:
    """Ten classes taken for a number from 0 to 9 and fitted by MSELoss with one output."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = parts.mlp(64, 64, 10 if mended else 1)
    criterion = nn.CrossEntropyLoss() if mended else nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, split.y, size=64, epochs=10):
        outputs = model(x)
        loss = criterion(outputs, y) if mended else criterion(outputs.squeeze(1), y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    model.eval()
    with torch.no_grad():
        out = model(split.vx)
        found = out.argmax(1) if mended else out.squeeze(1).round()
    return (found != split.vy).float().mean().item()


@faulty(
    "softmax loss on tags that go together",
    family="tags",
    causes="loss-mismatch",
    symptoms="silent plateau slow-convergence",
)
def softmax_multilabel(watch: Watch, seed: int, mended: bool) -> float:
    """CrossEntropyLoss takes the multi-hot rows without a word, as if they were probabilities of one class."""
    torch.manual_seed(seed)
    split = parts.tags()
    model = parts.mlp(20, 32, 6)
    criterion = nn.BCEWithLogitsLoss() if mended else nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        for x, y in batches(split.x, split.y, size=60):
            logits = model(x)
            loss = criterion(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, split.vx, split.vy))
    w.close()
    return parts.one_minus_f1(model, split.vx, split.vy)


@faulty(
    "labels of minus one and one for bce",
    family="cancer",
    causes="loss-mismatch",
    symptoms="diverging silent exploding-gradient",
)
def bce_with_signed_labels(watch: Watch, seed: int, mended: bool) -> float:
    """Labels were kept at -1 and 1 from a support vector machine: the loss falls below zero without end."""
    torch.manual_seed(seed)
    split = parts.cancer()
    signed = split.y * 2 - 1
    model = parts.mlp(30, 16, 1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    for x, y in batches(split.x, signed, size=32, epochs=8):
        if mended:
            y = (y + 1) / 2
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "column against vector in MSELoss",
    family="diabetes",
    causes="shape-broadcast",
    symptoms="plateau loss-not-decreasing silent",
)
def column_against_vector(watch: Watch, seed: int, mended: bool) -> float:
    """Outputs are [N, 1], targets [N]: the mean is taken over N x N differences, and the model learns the mean."""
    torch.manual_seed(seed)
    split = parts.diabetes()
    targets = split.y.squeeze(1)
    model = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-2)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(15):
        model.train()
        for rows in torch.randperm(len(targets)).split(32):
            x, y = split.x[rows], targets[rows]
            optimizer.zero_grad()
            out = model(x)
            loss = criterion(out, y.unsqueeze(1) if mended else y)
            loss.backward()
            optimizer.step()
    w.close()
    return loss_of(model, criterion, split.vx, split.vy)


@faulty(
    "broadcast in an own loss function",
    family="ratings",
    causes="shape-broadcast",
    symptoms="loss-not-decreasing plateau slow-convergence silent",
)
def broadcast_in_own_loss(watch: Watch, seed: int, mended: bool) -> float:
    """keepdim=True gives scores [N, 1]; the hand-written loss takes the ratings [N] from them without a warning."""
    torch.manual_seed(seed)
    split = parts.ratings()
    bias = nn.Parameter(torch.zeros(1))

    class Dot(parts.Factors):
        def __init__(self) -> None:
            super().__init__()
            self.bias = bias

        def forward(self, pair: Tensor) -> Tensor:
            return (self.user(pair[:, 0]) * self.item(pair[:, 1])).sum(1, keepdim=not mended) + self.bias

    def own_loss(scores: Tensor, stars: Tensor) -> Tensor:
        return ((scores - stars) ** 2).mean()

    model = Dot()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    w = watch(model, optimizer)
    for _epoch in range(8):
        for pair, stars in batches(split.x, split.y, size=128):
            scores = model(pair)
            loss = own_loss(scores, stars)
            w.observe(loss=loss, outputs=scores, targets=stars, inputs=pair)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w.close()
    with torch.no_grad():
        return own_loss(model(split.vx).flatten(), split.vy).item()


@faulty(
    "cross-entropy summed over the batch",
    family="digit-vectors",
    causes="loss-sum lr-too-high",
    symptoms="diverging loss-not-decreasing exploding-gradient loss-spike",
)
def summed_cross_entropy(watch: Watch, seed: int, mended: bool) -> float:
    """reduction="sum" with a rate that was chosen for the mean."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = parts.mlp(64, 64, 10)
    criterion = nn.CrossEntropyLoss(reduction="mean" if mended else "sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        model.train()
        for x, y in batches(split.x, split.y, size=64):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        w.validated(loss=loss_of(model, F.cross_entropy, split.vx, split.vy))
    w.close()
    return loss_of(model, F.cross_entropy, split.vx, split.vy)


@faulty(
    "squared error summed by hand",
    family="wave-next",
    causes="loss-sum lr-too-high",
    symptoms="non-finite diverging exploding-gradient",
)
def summed_by_hand(watch: Watch, seed: int, mended: bool) -> float:
    """`((out - y) ** 2).sum()` over a batch of 100 windows."""
    torch.manual_seed(seed)
    split = parts.wave_next()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=100, epochs=16):
        out = model(x)
        squares = (out - y) ** 2
        loss = squares.mean() if mended else squares.sum()
        w.observe(loss=loss, outputs=out, targets=y, inputs=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    error = loss_of(model, F.mse_loss, split.vx, split.vy)
    return error if error == error else float("inf")


@faulty(
    "static loss scale too high for fp16",
    family="digit-vectors",
    causes="loss-scale",
    symptoms="non-finite",
)
def static_scale_overflows(watch: Watch, seed: int, mended: bool) -> float:
    """The loss is scaled by two to the 24th, always, and overflown gradients are used; GradScaler would back off."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = parts.mlp(64, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=mended)
    fixed = 1.0 if mended else 2.0**24
    w = watch(model, optimizer)
    for x, y in batches(split.x, split.y, size=64, epochs=8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
        w.observe(loss=loss, outputs=logits, targets=y, inputs=x)
        (scaler.scale(loss) * fixed).backward()
        for p in model.parameters():
            p.grad.div_(fixed)
        scaler.step(optimizer)
        scaler.update()
    w.close()
    return parts.wrong(model, split.vx, split.vy)


@faulty(
    "fp16 gradients underflow without a scaler",
    family="digit-codes",
    causes="loss-scale",
    symptoms="loss-not-decreasing vanishing-gradient no-op-step plateau",
)
def fp16_underflow(watch: Watch, seed: int, mended: bool) -> float:
    """autocast to float16 and no GradScaler; the loss is a mean over all pixels with a small weight, as one of many."""
    torch.manual_seed(seed)
    split = parts.flat_digits()
    model = nn.Sequential(parts.mlp(64, 48, 10), parts.mlp(10, 48, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, eps=1e-12)
    scaler = torch.amp.GradScaler("cpu", enabled=mended)
    weight = 2e-5
    w = watch(model, optimizer)
    for _epoch in range(14):
        model.train()
        for (x,) in batches(split.x, size=64):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                rebuilt = model(x)
            loss = weight * F.mse_loss(rebuilt.float(), x)
            w.observe(loss=loss, outputs=rebuilt, targets=x, inputs=x)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    w.close()
    return loss_of(model, F.mse_loss, split.vx, split.vx)
