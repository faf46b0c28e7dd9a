"""Wiring of the loop and of the optimizer."""

import copy
from typing import Any

from torch import Tensor, nn

from benchmarks.diagnose.faults import faulty

PLAIN: dict[str, Any] = {"style": "module"}
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05}


def last_alone(model: nn.Module) -> Any:
    return list(model.parameters())[-2:]


def without_last(model: nn.Module) -> Any:
    return list(model.parameters())[:-2]


def of_a_copy(model: nn.Module) -> Any:
    return copy.deepcopy(model).parameters()


def frozen(model: nn.Module) -> Any:
    """Freezes all but the head, and gives the optimizer what is frozen."""
    params = list(model.parameters())
    for p in params[:-2]:
        p.requires_grad_(False)
    return params[:-2]


class Cut(nn.Module):
    """A layer whose output is detached."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        out = self.inner(x)
        return out.detach() if isinstance(out, Tensor) else (out[0].detach(), *out[1:])


def cut(model: nn.Module) -> None:
    """Detaches the output of the first layer with weights."""
    place = next(i for i, part in enumerate(model) if any(True for _ in part.parameters()))  # type: ignore[arg-type]
    model[place] = Cut(model[place])  # type: ignore[index, operator]


faulty(
    "no zero_grad",
    "grad-not-cleared",
    "blobs-mlp waves-gru text-gru digits-mlp digits-residual",
    {"clear": False},
    **PLAIN,
)
faulty(
    "no zero_grad, sgd",
    "grad-not-cleared",
    "smooth-mlp labels-mlp signals-cnn",
    {**SGD, "clear": False},
    style="function",
)
faulty("first layer detached", "no-gradient", "blobs-mlp digits-cnn text-gru digits-mlp sums-lstm", {"init": cut})
faulty(
    "head alone in the optimizer",
    "not-in-optimizer",
    "digits-cnn text-gru labels-mlp counts-transformer",
    {"wire": last_alone},
)
faulty("head left out", "not-in-optimizer", "blobs-mlp digits-residual", {"wire": without_last})
faulty("optimizer of a copy", "not-in-optimizer", "smooth-mlp digits-mlp", {"wire": of_a_copy})
faulty(
    "frozen ones in the optimizer",
    "frozen-in-optimizer",
    "blobs-mlp waves-gru digits-mlp signals-cnn",
    {"wire": frozen},
    **PLAIN,
)
faulty(
    "bfloat16 weights",
    "step-without-effect",
    "smooth-mlp blobs-mlp digits-mlp labels-mlp",
    {"half": True, "optimizer": "sgd", "lr": 1e-5, "momentum": 0.0},
    style="function",
)
faulty(
    "clipped before unscaled",
    "scaled-clip",
    "blobs-mlp digits-cnn digits-mlp signals-cnn",
    {**SGD, "scaler": 65536.0, "unscale": False, "clip": 1.0},
    **PLAIN,
)
faulty(
    "evaluation mode",
    "eval-mode",
    "blobs-mlp digits-cnn digits-residual labels-mlp",
    {"mode": "eval", "norm": True, "dropout": 0.2},
)
faulty(
    "validates in training mode",
    "train-mode",
    "blobs-mlp smooth-mlp digits-mlp digits-residual",
    {"validate": "train", "norm": True, "dropout": 0.2},
)
faulty("never steps", "not-stepped", "blobs-mlp signals-cnn", {"step_every": 10**9}, **PLAIN)
faulty("steps once in forty", "not-stepped", "digits-cnn labels-mlp", {"step_every": 40}, **PLAIN)
faulty("a new optimizer each step", "not-stepped", "smooth-mlp digits-mlp", {"remake": True, **SGD}, **PLAIN)
faulty("loss negated", "sign-flipped", "blobs-mlp text-gru digits-mlp", {"weight": -1.0})
faulty(
    "negated in a function",
    "sign-flipped",
    "smooth-mlp signals-cnn",
    {"loss": lambda: lambda o, y: -nn.MSELoss()(o, y)},
    style="function",
)
