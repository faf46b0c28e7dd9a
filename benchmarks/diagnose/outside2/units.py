"""Initial weights, units that are dead or at their limit, and depth."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.outside.registry import Watch, faulty
from benchmarks.diagnose.outside2 import parts


class GraphNet(nn.Module):
    """A hand-written graph network: weights of `scale`, neighbours averaged or summed, mean over nodes."""

    def __init__(self, scale: float | None = None, layers: int = 2, width: int = 32, mean: bool = True) -> None:
        super().__init__()
        widths = [4] + [width] * layers
        self.mean = mean
        self.weights = nn.ParameterList(
            torch.randn(2 * i, o) * (scale or math.sqrt(1 / i)) for i, o in itertools.pairwise(widths)
        )
        self.out = nn.Linear(width, 1)

    def forward(self, ax: Tensor) -> Tensor:
        a, h = ax[..., :12], ax[..., 12:]
        if self.mean:
            a = a / a.sum(-1, keepdim=True)
        for weight in self.weights:
            h = (torch.cat([h, a @ h], -1) @ weight).relu()
        return self.out(h.mean(1)).squeeze(1)


def graph_rows() -> parts.Data:
    a, x, y, n = parts.graphs()
    return parts.cut(torch.cat([a, x], -1), y, n)


def fit(watch: Watch, model: nn.Module, optimizer: torch.optim.Optimizer, data: parts.Data, loss: nn.Module, n: int):
    """Epochs with a validation pass after each."""
    w = watch(model, optimizer, loss=loss)
    for _ in range(n):
        model.train()
        for x, y in parts.loader(data.x, data.y):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=loss(model(data.xv), data.yv).item())
    w.close()
    return parts.score(model, loss, data.xv, data.yv)


@faulty(
    "2 graph layers of plain randn",
    family="graphs",
    causes="init-too-large lr-too-low",
    symptoms="slow-convergence exploding-gradient loss-spike overfitting",
)
def graph_of_randn(watch: Watch, seed: int, mended: bool) -> float:
    """`nn.Parameter(torch.randn(i, o))` in a layer written by hand, with nothing divided by the fan-in."""
    torch.manual_seed(seed)
    model = GraphNet(None if mended else 1.0, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(watch, model, optimizer, graph_rows(), nn.HuberLoss(), 8)


@faulty(
    "2 uniform_ with one bound given",
    family="beats",
    causes="init-too-large",
    symptoms="slow-convergence exploding-gradient loss-spike plateau loss-not-decreasing",
)
def one_bound(watch: Watch, seed: int, mended: bool) -> float:
    """`nn.init.uniform_(w, -0.1)` leaves the upper bound at its default: weights lie between -0.1 and 1."""
    torch.manual_seed(seed)
    model = parts.Beat(norm=False)
    if not mended:
        for layer in model.modules():
            if isinstance(layer, (nn.Conv1d, nn.Linear)):
                nn.init.uniform_(layer.weight, -0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    return fit(watch, model, optimizer, parts.beats(), nn.CrossEntropyLoss(), 5)


@faulty(
    "2 deviation of one over the fan-in",
    family="moons",
    causes="init-too-small deep-vanishing optimizer-unsuited",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def fan_in_without_root(watch: Watch, seed: int, mended: bool) -> float:
    """The square root of Kaiming's formula is forgotten: 1 / fan_in is taken for the deviation, in six layers."""
    torch.manual_seed(seed)
    model = parts.mlp(2, 64, 64, 64, 64, 64, 2)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
            fan = layer.in_features
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan) if mended else 1 / fan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return fit(watch, model, optimizer, parts.moons(), nn.CrossEntropyLoss(), 4)


@faulty(
    "2 zeros for every weight of a sigmoid net",
    family="circles",
    causes="init-symmetric",
    symptoms="loss-not-decreasing plateau",
)
def zeros_everywhere(watch: Watch, seed: int, mended: bool) -> float:
    """`nn.init.zeros_` on all weights, because zeros are a neutral start: hidden units stay copies of one another."""
    torch.manual_seed(seed)
    data = parts.circles()
    model = parts.mlp(2, 32, 1, act=nn.Sigmoid)
    if not mended:
        for p in model.parameters():
            nn.init.zeros_(p)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    data = data._replace(y=data.y.float()[:, None], yv=data.yv.float()[:, None])
    return fit(watch, model, optimizer, data, nn.BCEWithLogitsLoss(), 4)


@faulty(
    "2 weights from below zero on pixels from above",
    family="shapes",
    causes="dead-units",
    symptoms="loss-not-decreasing plateau vanishing-gradient",
)
def negative_weights(watch: Watch, seed: int, mended: bool) -> float:
    """`uniform_(w, -b, 0)` for `uniform_(w, -b, b)`, and pixels from 0 up: the first ReLU never lets anything by."""
    torch.manual_seed(seed)
    data = parts.shapes()
    data = data._replace(x=data.x.clamp(min=0), xv=data.xv.clamp(min=0))
    model = parts.ShapeNet(norm=False)
    for layer in (model.conv1, model.conv2):
        bound = math.sqrt(6 / (layer.in_channels * 9))
        nn.init.uniform_(layer.weight, -bound, bound if mended else 0.0)
        nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(watch, model, optimizer, data, nn.CrossEntropyLoss(), 4)


@faulty(
    "2 forget bias written into all four gates",
    family="demand",
    causes="saturated-units undertrained",
    symptoms="plateau slow-convergence vanishing-gradient loss-not-decreasing",
)
def every_gate_biased(watch: Watch, seed: int, mended: bool) -> float:
    """`bias.fill_(5)` is meant for the forget gate; it drives input, output and candidate to their limits as well."""
    torch.manual_seed(seed)
    model = parts.Forecaster(24, nn.LSTM)
    with torch.no_grad():
        for bias in (model.rnn.bias_ih_l0, model.rnn.bias_hh_l0):
            if mended:
                bias[24:48].fill_(0.5)
            else:
                bias.fill_(5.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(watch, model, optimizer, parts.demand(), nn.MSELoss(), 4)


@faulty(
    "2 eight sigmoid convolutions",
    family="beats",
    causes="deep-vanishing",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def sigmoid_convolutions(watch: Watch, seed: int, mended: bool) -> float:
    """Eight 1-d convolutions with sigmoids between; mended with ReLU and batch norm."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(8):
        layers.append(nn.Conv1d(16 if i else 1, 16, 5, stride=2 if i in (0, 3) else 1, padding=2))
        layers += [nn.BatchNorm1d(16), nn.ReLU()] if mended else [nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return fit(watch, model, optimizer, parts.beats(), nn.CrossEntropyLoss(), 4)


class _Stack(nn.Module):
    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip, self.first, self.last = skip, nn.Linear(20, 48), nn.Linear(48, 4)
        self.blocks = nn.ModuleList(nn.Linear(48, 48) for _ in range(16))
        self.norms = nn.ModuleList(nn.LayerNorm(48) if skip else nn.Identity() for _ in range(16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            h = h + F.gelu(block(norm(h))) if self.skip else F.gelu(block(h))
        return self.last(h)


@faulty(
    "2 sixteen gelu layers one after another",
    family="churn",
    causes="deep-vanishing init-too-small",
    symptoms="vanishing-gradient loss-not-decreasing plateau",
)
def gelu_stack(watch: Watch, seed: int, mended: bool) -> float:
    """No skips and no norms; mended with both."""
    torch.manual_seed(seed)
    model = _Stack(mended)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    return fit(watch, model, optimizer, parts.churn(), nn.CrossEntropyLoss(), 5)


@faulty(
    "2 six graph layers that add up their neighbours",
    family="graphs",
    causes="deep-exploding init-too-large",
    symptoms="exploding-gradient loss-spike slow-convergence diverging loss-oscillating",
)
def graph_sums(watch: Watch, seed: int, mended: bool) -> float:
    """The adjacency is not normalised: with some five neighbours each layer makes the numbers several times larger."""
    torch.manual_seed(seed)
    model = GraphNet(None, 6, 24, mean=mended)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(watch, model, optimizer, graph_rows(), nn.HuberLoss(), 8)


@faulty(
    "2 relu recurrence with a gain over one",
    family="demand",
    causes="deep-exploding init-too-large",
    symptoms="exploding-gradient diverging non-finite loss-spike loss-not-decreasing",
)
def relu_recurrence(watch: Watch, seed: int, mended: bool) -> float:
    """A ReLU RNN whose recurrent matrix is the identity times 1.5, over 24 hours; mended with the identity alone."""
    torch.manual_seed(seed)
    model = parts.Forecaster(24, lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k))
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(torch.eye(24) * (0.9 if mended else 1.5))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(watch, model, optimizer, parts.demand(), nn.MSELoss(), 4)
