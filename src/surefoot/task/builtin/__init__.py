"""Tasks that come with surefoot, on data that needs no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from surefoot.task.builtin import digits, quadratic, text
from surefoot.task.task import Task


@dataclass(frozen=True)
class Builtin:
    """A built-in task: how to make it, and one line on what it is."""

    factory: Callable[[], Task]
    summary: str


BUILTIN: dict[str, Builtin] = {
    "digits-cnn": Builtin(digits.cnn, "handwritten digits, 8 x 8 pixels: a small convolutional network"),
    "digits-mlp": Builtin(digits.mlp, "the same digits: a multi-layer perceptron"),
    "stdlib-gpt": Builtin(text.gpt, "a character language model of Python's standard library: a small transformer"),
    "stdlib-gru": Builtin(text.gru, "the same text: a recurrent network"),
    "quadratic-deep": Builtin(quadratic.deep, "DeepOBS's noisy quadratic in 100 dimensions, curvatures up to 60"),
}
