"""Initial weights: far too large, far too small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.diagnose.outside import parts_dynamics as parts
from benchmarks.diagnose.outside.registry import Watch, faulty


@faulty(
    "init_normal_one_digits",
    family="digits-mlp",
    causes="init-too-large",
    symptoms="slow-convergence exploding-gradient overfitting",
)
def init_normal_one_digits(watch: Watch, seed: int, mended: bool) -> float:
    """nn.init.normal_ with its default deviation of 1 on every weight."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()

    def init_weights(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            if mended:
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            else:
                nn.init.normal_(m.weight)
            nn.init.zeros_(m.bias)

    model = parts.mlp(64, 64, 64, 10)
    model.apply(init_weights)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        for xb, yb in parts.loader(x, y, 64):
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "init_embedding_dot_product",
    family="factorisation",
    causes="init-too-large lr-too-low",
    symptoms="slow-convergence",
)
def init_embedding_dot_product(watch: Watch, seed: int, mended: bool) -> float:
    """nn.Embedding's N(0, 1) left as it is, 24 factors: the products start at a deviation of five."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.ratings()
    model = parts.Factors(dim=24, std=0.1 if mended else None)
    mse = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=mse)
    for pairs, rating in parts.batches(x, y, 128, 260):
        optimizer.zero_grad()
        loss = mse(model(pairs), rating)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, mse, xv, yv)


class TiedLM(nn.Module):
    """A GRU whose head is the transposed embedding."""

    def __init__(self, vocabulary: int, width: int, std: float) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.emb.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(self.rnn(self.emb(x))[0]), self.emb.weight)


@faulty(
    "init_tied_embedding",
    family="char-gru",
    causes="init-too-large",
    symptoms="slow-convergence exploding-gradient",
)
def init_tied_embedding(watch: Watch, seed: int, mended: bool) -> float:
    """A tied embedding initialised at a deviation of 3: the loss starts at a multiple of log(vocabulary)."""
    torch.manual_seed(seed)
    (x, y, xv, yv), vocabulary = parts.text()
    model = TiedLM(vocabulary, 64, std=0.1 if mended else 3.0)
    opt = torch.optim.AdamW(model.parameters(), lr=6e-3)
    w = watch(model, opt)
    for xb, yb in parts.batches(x, y, 32, 120):
        opt.zero_grad()
        logits = model(xb)
        loss = parts.tokens(logits, yb)
        w.observe(loss=loss, outputs=logits, targets=yb, inputs=xb)
        loss.backward()
        opt.step()
    w.close()
    return parts.score(model, parts.tokens, xv, yv)


@faulty(
    "init_tiny_normal_stack",
    family="digits-mlp",
    causes="init-too-small deep-vanishing",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def init_tiny_normal_stack(watch: Watch, seed: int, mended: bool) -> float:
    """normal_(std=0.001) on five layers, as an old TensorFlow tutorial has it for one."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.digits()
    model = parts.mlp(64, 64, 64, 64, 10)
    for p in model.parameters():
        if p.dim() > 1:
            if mended:
                nn.init.kaiming_normal_(p)
            else:
                nn.init.normal_(p, std=0.001)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    for _epoch in range(8):
        for xb, yb in parts.batches(x, y, 64, 21):
            optimizer.zero_grad()
            criterion(model(xb), yb).backward()
            optimizer.step()
        w.validated(loss=parts.score(model, criterion, xv, yv))
    w.close()
    return parts.score(model, criterion, xv, yv)


@faulty(
    "init_tiny_spirals",
    family="spirals",
    causes="init-too-small",
    symptoms="loss-not-decreasing plateau vanishing-gradient",
)
def init_tiny_spirals(watch: Watch, seed: int, mended: bool) -> float:
    """Weights of 0.01 `so that tanh stays linear`: three layers of them pass nothing on."""
    torch.manual_seed(seed)
    x, y, xv, yv = parts.spirals()
    model = parts.mlp(2, 32, 32, 32, 2, act=nn.Tanh)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(1.5 / layer.in_features**0.5) if mended else 0.01)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    w = watch(model, optimizer)
    for xb, yb in parts.batches(x, y, 60, 400):
        optimizer.zero_grad()
        logits = model(xb)
        loss = F.cross_entropy(logits, yb)
        w.observe(loss=loss, outputs=logits, targets=yb, inputs=xb)
        loss.backward()
        optimizer.step()
    w.close()
    return parts.score(model, nn.CrossEntropyLoss(), xv, yv)
