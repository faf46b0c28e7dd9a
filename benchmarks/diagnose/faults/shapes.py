"""Heads and losses, initial weights, activations, depth."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.faults import faulty

SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05}


def each(function: Callable[[Tensor], Any]) -> Callable[[nn.Module], None]:
    """Applied to all matrices."""

    def init(model: nn.Module) -> None:
        for p in model.parameters():
            if p.ndim > 1:
                function(p)

    return init


def constant(model: nn.Module) -> None:
    for p in model.parameters():
        p.fill_(0.05)


def zero(model: nn.Module) -> None:
    for p in model.parameters():
        p.zero_()


def dead(model: nn.Module) -> None:
    """Biases far below 0 in all but the last layer."""
    biases = [p for p in model.parameters() if p.ndim == 1]
    for p in biases[:-1]:
        p.fill_(-20.0)


def flat_targets(out: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(out, y.squeeze(1))


def squared_classes(out: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(out.argmax(1).float() + 0 * out.sum(), y.float())


faulty(
    "softmax before cross-entropy",
    "output-activation",
    "blobs-mlp digits-cnn digits-mlp counts-transformer",
    {"last": lambda: nn.Softmax(-1)},
)
faulty("relu before cross-entropy", "output-activation", "waves-gru digits-residual", {"last": nn.ReLU})
faulty("sigmoid before logits", "output-activation", "cancer-mlp labels-mlp", {"last": nn.Sigmoid})
faulty("softmax over one unit", "output-activation", "cancer-mlp", {"last": lambda: nn.Softmax(-1), "loss": nn.BCELoss})
faulty("softmax over one unit, squared", "output-activation", "signals-cnn", {"last": lambda: nn.Softmax(-1)})
faulty("sigmoid against any number", "output-range", "smooth-mlp signals-cnn sums-lstm", {"last": nn.Sigmoid})
faulty("relu against any number", "output-range", "smooth-mlp diabetes-mlp", {"last": nn.ReLU})
faulty("tanh against tens", "output-range", "smooth-mlp signals-cnn", {"last": nn.Tanh, "target_scale": 6.0})
faulty("bce of 0 and 2", "loss-mismatch", "cancer-mlp labels-mlp", {"labels": lambda y: 2 * y})
faulty("cross-entropy of several labels", "loss-mismatch", "labels-mlp", {"loss": nn.CrossEntropyLoss})
faulty(
    "squared error of class numbers",
    "loss-mismatch",
    "blobs-mlp digits-mlp",
    {"loss": lambda: lambda o, y: F.mse_loss(o, y.float().unsqueeze(1).expand_as(o))},
    style="function",
)
faulty("absolute error of labels of 0 and 1", "loss-mismatch", "cancer-mlp", {"loss": nn.L1Loss})
faulty(
    "[n, 1] against [n]",
    "shape-broadcast",
    "smooth-mlp diabetes-mlp signals-cnn sums-lstm",
    {"labels": lambda y: y.squeeze(1)},
)
faulty(
    "weights 30 times too large",
    "init-too-large",
    "blobs-mlp smooth-mlp digits-mlp signals-cnn",
    {"init": each(lambda p: p.mul_(25))},
)
faulty(
    "weights of spread one",
    "init-too-large",
    "cancer-mlp labels-mlp digits-cnn",
    {"init": each(lambda p: nn.init.normal_(p, 0, 2.0))},
)
faulty(
    "weights 30 times too small",
    "init-too-small",
    "blobs-mlp digits-cnn digits-mlp labels-mlp",
    {"init": each(lambda p: p.mul_(0.02)), "depth": 4, **SGD},
)
faulty("all weights the same", "init-symmetric", "blobs-mlp smooth-mlp digits-mlp", {"init": constant})
faulty("all weights zero", "init-symmetric", "cancer-mlp labels-mlp", {"init": zero})
faulty("dead from the start", "dead-units", "blobs-mlp digits-cnn digits-mlp labels-mlp", {"init": dead})
faulty(
    "tanh at its limits",
    "saturated-units",
    "blobs-mlp digits-mlp",
    {"act": nn.Tanh, "init": each(lambda p: p.mul_(40))},
)
faulty(
    "sigmoid at its limits",
    "saturated-units",
    "smooth-mlp labels-mlp",
    {"act": nn.Sigmoid, "init": each(lambda p: p.mul_(60)), **SGD},
)
faulty(
    "twelve sigmoid layers",
    "deep-vanishing",
    "blobs-mlp smooth-mlp digits-mlp labels-mlp",
    {"act": nn.Sigmoid, "depth": 12},
)
faulty(
    "twelve sigmoid layers, sgd", "deep-vanishing", "cancer-mlp diabetes-mlp", {"act": nn.Sigmoid, "depth": 12, **SGD}
)
faulty(
    "sixteen layers that grow",
    "deep-exploding",
    "blobs-mlp digits-mlp labels-mlp smooth-mlp",
    {"depth": 16, "init": each(lambda p: p.mul_(4)), "optimizer": "sgd", "lr": 0.01},
)
faulty(
    "summed", "loss-sum", "smooth-mlp diabetes-mlp signals-cnn", {"loss": lambda: nn.MSELoss(reduction="sum"), **SGD}
)
faulty(
    "summed over classes",
    "loss-sum",
    "blobs-mlp digits-mlp digits-cnn",
    {"loss": lambda: nn.CrossEntropyLoss(reduction="sum"), **SGD},
)


def underflow(model: nn.Module) -> None:
    """Gradients that fp16 cannot hold: rounded to it as they come."""
    for p in model.parameters():
        p.register_hook(lambda g: g.mul(1e-8).half().float().mul(1e8) if torch.is_tensor(g) else g)


faulty("fp16 that underflows", "loss-scale", "smooth-mlp labels-mlp", {"init": underflow, **SGD})
