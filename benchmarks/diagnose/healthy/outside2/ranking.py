"""Which of two, which of many: comparisons instead of targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches
from benchmarks.diagnose.healthy.outside2.rows import digits
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("2-which-of-two-was-chosen", family="2-ranking", part="outside2")
def chosen(watch: Watch, seed: int) -> Outcome:
    """A reward for the chosen and one for the rejected by two passes; only their difference is ever judged."""
    torch.manual_seed(seed)
    truth = mlp(8, 16, 1, act=nn.Tanh).requires_grad_(False)
    pairs = torch.randn(4500, 2, 8)
    margin = 6 * (truth(pairs[:, 0]) - truth(pairs[:, 1]))[:, 0]
    swap = torch.rand(4500) > margin.sigmoid()
    pairs[swap] = pairs[swap].flip(1)
    pairs, pairs2 = pairs[:3500], pairs[3500:]
    model = mlp(8, 32, 1)

    def held() -> float:
        with torch.no_grad():
            return -F.logsigmoid(model(pairs2[:, 0]) - model(pairs2[:, 1])).mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first = held()
    w = watch(model, optimizer)
    for (rows,) in batches(pairs, size=50, epochs=5):
        better, worse = model(rows[:, 0]), model(rows[:, 1])
        loss = -F.logsigmoid(better - worse).mean()
        w.observe(loss=loss, outputs=better - worse)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, held(), math.log(2))


@healthy("2-margins-between-rows", family="2-ranking", part="outside2")
def margins(watch: Watch, seed: int) -> Outcome:
    """MarginRankingLoss on the two halves of a batch: targets are -1 and 1, and scores have no level of their own."""
    torch.manual_seed(seed)
    x = torch.randn(4400, 10)
    worth = x[:, 0] + (2 * x[:, 1]).sin() + 0.5 * x[:, 2] * x[:, 3] + 0.7 * torch.randn(4400)
    x, worth, x2, worth2 = x[:3400], worth[:3400], x[3400:], worth[3400:]
    model, criterion = nn.Sequential(mlp(10, 48, 48, 1), nn.Flatten(0)), nn.MarginRankingLoss(margin=0.5)

    def loss_on(inputs: Tensor, values: Tensor) -> Tensor:
        upper, lower = model(inputs).chunk(2)
        one, another = values.chunk(2)
        return criterion(upper, lower, (one - another).sign())

    def held() -> float:
        with torch.no_grad():
            return loss_on(x2, worth2).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = held()
    watch(model, optimizer, loss=criterion)
    for inputs, values in batches(x, worth, size=68, epochs=8):
        optimizer.zero_grad()
        loss_on(inputs, values).backward()
        optimizer.step()
    return Outcome(first, held(), 0.5)


@healthy("2-players-by-their-games", family="2-ranking", part="outside2")
def players(watch: Watch, seed: int) -> Outcome:
    """One number for each of three hundred players, all zero at first; a game shows two of them."""
    torch.manual_seed(seed)
    skill = 1.2 * torch.randn(300)
    games = torch.randint(300, (20000, 2))
    won = torch.bernoulli((skill[games[:, 0]] - skill[games[:, 1]]).sigmoid())
    games, won, games2, won2 = games[:16000], won[:16000], games[16000:], won[16000:]
    model, criterion = nn.Embedding(300, 1), nn.BCEWithLogitsLoss()
    nn.init.zeros_(model.weight)

    def advantage(rows: Tensor) -> Tensor:
        both = model(rows)[..., 0]
        return both[:, 0] - both[:, 1]

    def held() -> float:
        with torch.no_grad():
            return criterion(advantage(games2), won2).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    first = held()
    watch(model, optimizer, loss=criterion)
    for rows, results in batches(games, won, size=160, epochs=3):
        optimizer.zero_grad()
        criterion(advantage(rows), results).backward()
        optimizer.step()
    return Outcome(first, held(), math.log(2))


@healthy("2-angles-to-ten-centres", family="2-compared", part="outside2")
def angles(watch: Watch, seed: int) -> Outcome:
    """Cosines to ten centres, a margin off the right one's, all scaled by eight: embeddings of length one."""
    torch.manual_seed(seed)
    x, y, x2, y2 = digits(seed)
    wrong, wrong2 = torch.rand(len(y)) < 0.15, torch.rand(len(y2)) < 0.15
    y = torch.where(wrong, torch.randint(10, y.shape), y)
    y2 = torch.where(wrong2, torch.randint(10, y2.shape), y2)
    body, centres = nn.Sequential(nn.Flatten(), mlp(64, 48, 12, drop=0.2)), nn.Parameter(torch.randn(10, 12))
    model = nn.ParameterDict({"centres": centres})
    whole = nn.ModuleList([body, model])

    def cosines(images: Tensor) -> Tensor:
        return F.normalize(body(images), dim=1) @ F.normalize(centres, dim=1).T

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(8 * (outputs - 0.1 * F.one_hot(targets, 10)), targets)

    def held() -> float:
        body.eval()
        with torch.no_grad():
            loss = criterion(cosines(x2), y2).item()
        body.train()
        return loss

    optimizer = torch.optim.Adam(whole.parameters(), lr=3e-3)
    first = held()
    w = watch(whole, optimizer)
    for _ in range(6):
        for images, labels in batches(x, y, size=32):
            outputs = cosines(images)
            loss = criterion(outputs, labels)
            w.observe(loss=loss, outputs=outputs, targets=labels, inputs=images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w.validated(loss=held())
    w.close()
    return Outcome(first, held(), criterion(torch.zeros(len(y2), 10), y2).item())
