"""Text and series: Python's own source, chains of tokens, forecasts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import PerToken, Recurrent, Transformer
from benchmarks.diagnose.healthy.common import batches, binary_entropy, entropy, loss_of, variance, warmed_cosine
from benchmarks.diagnose.healthy.outside2.rows import parted, source
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("2-state-carried-along-the-text", family="2-source-text", part="outside2")
def carried(watch: Watch, seed: int) -> Outcome:
    """The text is read in its order by sixteen readers, whose state goes on detached from chunk to chunk."""
    torch.manual_seed(seed)
    text, letters = source()
    lanes = text[: 16 * 2500].view(16, 2500)
    model, criterion = Reader(letters, 64), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)

    def held() -> float:
        with torch.no_grad():
            outputs, _ = model(text[40000:44000][None])
            return F.cross_entropy(outputs[0, :-1], text[40001:44000]).item()

    first = held()
    w = watch(model, optimizer, loss=criterion)
    for _ in range(2):
        state = None
        for start in range(0, 2480, 20):
            outputs, state = model(lanes[:, start : start + 20], state)
            state = state.detach()
            optimizer.zero_grad()
            criterion(outputs.flatten(0, 1), lanes[:, start + 1 : start + 21].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        w.validated(loss=held())
    return Outcome(first, held(), entropy(text[40001:44000]))


class Reader(nn.Module):
    """A GRU over characters that gives back its state."""

    def __init__(self, letters: int, hidden: int) -> None:
        super().__init__()
        self.letter, self.head = nn.Embedding(letters, 32), nn.Linear(hidden, letters)
        self.cell = nn.GRU(32, hidden, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        states, state = self.cell(self.letter(x), state)
        return self.head(states), state


class ByName(nn.Module):
    """A tied transformer called by keywords, which answers with a dict, loss inside."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.inner, self.criterion = Transformer(letters, letters, 32, look_back=True, tied=True), PerToken()

    def forward(self, *, tokens: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.inner(tokens)
        return {"logits": logits, **({} if labels is None else {"loss": self.criterion(logits, labels)})}


@healthy("2-source-by-keywords", family="2-source-text", part="outside2")
def keywords(watch: Watch, seed: int) -> Outcome:
    """A language model called by keywords on a dict, whose loss comes back in a dict; tied, warmed up, then cosine."""
    torch.manual_seed(seed)
    text, letters = source()
    starts, starts2 = torch.randint(0, 39000, (3840,)), torch.randint(40000, len(text) - 33, (300,))
    steps = torch.arange(33)
    chunks, chunks2 = text[starts[:, None] + steps], text[starts2[:, None] + steps]
    model = ByName(letters)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95))

    def held() -> float:
        with torch.no_grad():
            return model(tokens=chunks2[:, :-1], labels=chunks2[:, 1:])["loss"].item()

    first = held()
    w = watch(model, optimizer, loss=model.criterion)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(20, 240))
    for (rows,) in batches(chunks, size=16):
        batch = {"tokens": rows[:, :-1], "labels": rows[:, 1:]}
        model(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    w.close()
    return Outcome(first, held(), entropy(chunks2[:, 1:]))


@healthy("2-words-beside-words", family="2-source-text", part="outside2")
def beside(watch: Watch, seed: int) -> Outcome:
    """Skip-grams with drawn negatives: two tables, products for outputs, nearly all rows without a gradient."""
    torch.manual_seed(seed)
    text, letters = source()
    pairs = text[:-1] * letters + text[1:]  # two characters are a word
    words = pairs.unique(return_inverse=True)[1]
    count = int(words.max()) + 1
    share = words.bincount().float().pow(0.75)
    tables = nn.ModuleList([nn.Embedding(count, 16), nn.Embedding(count, 16)])
    nn.init.uniform_(tables[0].weight, -0.5, 0.5)
    nn.init.zeros_(tables[1].weight)
    criterion = nn.BCEWithLogitsLoss()

    def examples(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        near, far = words[rows + 2], torch.multinomial(share, 3 * len(rows), replacement=True)
        told = torch.cat([torch.ones(len(rows)), torch.zeros(3 * len(rows))])
        return words[rows].repeat(4), torch.cat([near, far]), told

    def score(centre: Tensor, other: Tensor) -> Tensor:
        return (tables[0](centre) * tables[1](other)).sum(1)

    centre, other, told = examples(torch.arange(40000, len(text) - 4))

    def held() -> float:
        with torch.no_grad():
            return criterion(score(centre, other), told).item()

    optimizer = torch.optim.Adam(tables.parameters(), lr=1e-2)
    first = held()
    watch(tables, optimizer, loss=criterion)
    for (rows,) in batches(torch.arange(40000), size=256, epochs=2):
        left, right, targets = examples(rows)
        optimizer.zero_grad()
        criterion(score(left, right), targets).backward()
        optimizer.step()
    return Outcome(first, held(), binary_entropy(told))


@healthy("2-innovations-are-half", family="2-series", part="outside2")
def innovations(watch: Watch, seed: int) -> Outcome:
    """A forecast of a noisy swing, a step ahead at every step: half of the variance cannot be told."""
    torch.manual_seed(seed)
    series = torch.zeros(2200, 42)
    noise = torch.randn(2200, 42)
    for t in range(2, 42):
        series[:, t] = 1.1 * series[:, t - 1] - 0.6 * series[:, t - 2] + noise[:, t]
    series = series[:, 10:, None] / series[:, 10:].std()
    x, y, x2, y2 = parted(series[:, :-1], series[:, 1:], seed)
    model, criterion = Recurrent("LSTM", 1, 24, 1, tokens=False), nn.MSELoss()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3, momentum=0.5)
    first = loss_of(model, criterion, x2, y2)
    with watch(model, optimizer, loss=criterion) as w:
        for _ in range(5):
            for inputs, targets in batches(x, y, size=32):
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            w.validated(loss=loss_of(model, criterion, x2, y2))
    return Outcome(first, loss_of(model, criterion, x2, y2), variance(y2))


@healthy("2-bags-of-tokens", family="2-bags", part="outside2")
def bags(watch: Watch, seed: int) -> Outcome:
    """Bags of unlike size by offsets into one long row of tokens; a mean in the bag, three topics to a bag."""
    torch.manual_seed(seed)
    topics = torch.randn(6, 200).mul(1.5).softmax(1)

    def make(count: int) -> tuple[Tensor, Tensor, Tensor]:
        told = torch.zeros(count, 6)
        told.scatter_(1, torch.rand(count, 6).topk(3, 1).indices, 1.0)
        sizes = torch.randint(4, 30, (count,))
        tokens = torch.multinomial((told @ topics).repeat_interleave(sizes, 0), 1)[:, 0]
        return tokens, torch.cat([torch.zeros(1).long(), sizes.cumsum(0)[:-1]]), told

    model = nn.ModuleDict({"bag": nn.EmbeddingBag(200, 24, mode="mean"), "head": nn.Linear(24, 6)})
    criterion = nn.BCEWithLogitsLoss()
    tokens2, offsets2, told2 = make(800)

    def held() -> float:
        with torch.no_grad():
            return criterion(model["head"](model["bag"](tokens2, offsets2)), told2).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = held()
    watch(model, optimizer, loss=criterion)
    for _ in range(250):
        tokens, offsets, told = make(64)
        optimizer.zero_grad()
        criterion(model["head"](model["bag"](tokens, offsets)), told).backward()
        optimizer.step()
    return Outcome(first, held(), binary_entropy(told2))
