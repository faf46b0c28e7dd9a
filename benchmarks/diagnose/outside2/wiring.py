"""Gradients that stay, that never come, and parameters that no optimizer moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


@faulty(
    "2 zero_grad on the features alone",
    family="beats",
    causes="grad-not-cleared",
    symptoms="loss-oscillating diverging exploding-gradient loss-not-decreasing",
)
def zero_features_only(watch: Watch, seed: int, mended: bool) -> float:
    """`model.features.zero_grad()` is what stands in the loop: the head's gradient is never cleared."""
    torch.manual_seed(seed)
    data = parts.beats()
    model = parts.Beat()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            (model if mended else model.features).zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(data.xv), data.yv).item())
        model.train()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


class _ListedClicks(parts.ClickNet):
    """Looks the vectors up and rebuilds the tensor from lists, `so that it is contiguous`."""

    listed = False

    def embed(self, x: Tensor) -> Tensor:
        e = super().embed(x)
        return torch.tensor(e.tolist()) if self.listed else e


@faulty(
    "2 embeddings rebuilt from lists",
    family="clicks",
    causes="no-gradient",
    symptoms="slow-convergence plateau silent",
)
def embeddings_from_lists(watch: Watch, seed: int, mended: bool) -> float:
    """`torch.tensor(e.tolist())` parts the embeddings from the loss; only the network above them is trained."""
    torch.manual_seed(seed)
    data = parts.clicks()
    model = _ListedClicks()
    model.listed = not mended
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y, 64):
            optimizer.zero_grad(set_to_none=True)
            criterion(model(x), y).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, data.xv, data.yv))
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 decay groups by name miss the recurrent layer",
    family="prose",
    causes="not-in-optimizer",
    symptoms="slow-convergence plateau silent",
)
def groups_miss_rnn(watch: Watch, seed: int, mended: bool) -> float:
    """Groups of names that end in `weight` and in `bias`; those of a GRU end in `weight_ih_l0` and are in neither."""
    torch.manual_seed(seed)
    ids, held, kinds = parts.prose()
    model = parts.Writer(kinds)
    named = list(model.named_parameters())
    if mended:
        decay, rest = [p for n, p in named if "weight" in n], [p for n, p in named if "bias" in n]
    else:
        decay, rest = [p for n, p in named if n.endswith("weight")], [p for n, p in named if n.endswith("bias")]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=5e-3)
    w = watch(model, optimizer)
    for _ in range(250):
        x, y = parts.windows(ids, 24, 16)
        logits = model(x)
        loss = parts.by_token(logits, y)
        w.observe(loss=loss, outputs=logits.flatten(0, 1), targets=y.flatten(), inputs=x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    w.close()
    torch.manual_seed(99)
    return parts.score(model, parts.by_token, *parts.windows(held, 24, 200))


class _LazyHead(nn.Module):
    """A set network whose layer after pooling is made at the first call, when its width is known."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
        self.mix: nn.Module | None = None
        self.out = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.point(x)
        h = torch.cat([h.mean(1), h.amax(1)], 1)
        if self.mix is None:
            self.mix = nn.Linear(h.shape[1], 32)
        return self.out(self.mix(h).relu()).squeeze(1)


@faulty(
    "2 layer made at the first forward",
    family="clouds",
    causes="not-in-optimizer",
    symptoms="silent slow-convergence plateau",
)
def lazy_layer(watch: Watch, seed: int, mended: bool) -> float:
    """The optimizer is made before the first batch and so has never heard of `mix`."""
    torch.manual_seed(seed)
    data = parts.clouds()
    model = _LazyHead()
    if mended:
        model(data.x[:2])
    criterion = nn.SmoothL1Loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if not mended:
        model(data.x[:2])  # a summary of the model is printed
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        model.train()
        for x, y in parts.loader(data.x, data.y):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(data.xv), data.yv).item())
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)


@faulty(
    "2 unfreezing by a name that no layer has",
    family="shapes",
    causes="frozen-in-optimizer",
    symptoms="slow-convergence plateau loss-not-decreasing silent",
)
def unfreeze_by_wrong_name(watch: Watch, seed: int, mended: bool) -> float:
    """The names of what is to be tuned come from another network: of them only `bn` is found in this one."""
    torch.manual_seed(seed)
    data = parts.shapes()
    model = parts.ShapeNet()
    tuned = ("bn", "conv2", "fc") if mended else ("bn", "layer2", "classifier")
    for name, p in model.named_parameters():
        p.requires_grad_(any(part in name for part in tuned))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(4):
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    w.close()
    return parts.score(model, criterion, data.xv, data.yv)
