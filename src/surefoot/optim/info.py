"""What is known of an optimizer: its equation, its paper, what it keeps, when to use it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import tomli
import torch
from torch import Tensor, nn

from surefoot.optim.registry import entry

SIDE = 512  # of the matrix that states are measured on


@dataclass(frozen=True)
class Info:
    """What is known of one name of the registry; `print` shows it as a page.

    name: as `create` knows it
    summary: what it does, in a sentence
    equation: one step, in the grammar of docs/optimizers.md; "" where the class is torch's
    paper, year, where: its source
    defaults: the hyper-parameters that `create` uses, and where they come from
    states: bytes for each parameter of a large fp32 matrix, by the states' names
    suits, weakness, source: what it is good for, what it is not, and who says so
    within: on surefoot's test problems its loss is at most this factor of the best optimizer's; None: not measured
    """

    name: str
    summary: str
    equation: str
    paper: str
    year: int
    where: str
    defaults: Mapping[str, Any]
    defaults_from: str
    states: Mapping[str, float]
    suits: str
    weakness: str
    source: str
    within: float | None

    @property
    def bytes(self) -> float:
        """What its states take for each parameter of a large fp32 matrix."""
        return sum(self.states.values())

    def __str__(self) -> str:
        kept = ", ".join(f"{name} {size:.3g}" for name, size in self.states.items()) or "nothing"
        given = ", ".join(f"{name}={value!r}" for name, value in self.defaults.items())
        rows = {
            "Paper": f"{self.paper} ({self.year}); {self.where}",
            "Defaults": f"{given} ({self.defaults_from})",
            "States": f"{self.bytes:.3g} bytes a parameter: {kept}",
            "Suits": self.suits,
            "Weakness": f"{self.weakness} ({self.source})",
        }
        if self.within is not None:
            rows["Measured"] = f"final loss at most {self.within:g} times the best optimizer's (benchmarks/README.md)"
        wrapped = [
            textwrap.fill(f"{key + ':':<10}{text}", 100, subsequent_indent=10 * " ") for key, text in rows.items()
        ]
        equation = textwrap.indent(self.equation, "    ")
        return "\n".join([f"{self.name}: {self.summary}", "", *([equation, ""] if equation else []), *wrapped])


def info(name: str) -> Info:
    """What is known of an optimizer, by its name in the registry.

    Raises:
        UserError: for an unknown name, with a suggestion

    >>> import surefoot as sf
    >>> lion = sf.optim.info("lion")
    >>> lion.year, lion.where, lion.bytes
    (2023, 'arXiv:2302.06675', 4.0)
    >>> print(lion.equation)
    u = beta1 * m + (1 - beta1) * g
    m = beta2 * m + (1 - beta2) * g
    p = p - lr * (sign(u) + weight_decay * p)
    """
    chosen = entry(name)
    known = _knowledge()[name]
    shared = ("maximize", "foreach", "fused", "capturable", "differentiable")
    own = inspect.signature(chosen.factory.__init__).parameters
    summary, equation = described(chosen.factory)
    return Info(
        name,
        summary,
        equation,
        known["title"],
        known["year"],
        known["where"],
        {key: value for key, value in chosen.options.items() if key in own and key not in shared},
        known["defaults"],
        measured(name),
        known["suits"],
        known["weakness"],
        known["source"],
        known.get("within"),
    )


def described(factory: type[Any]) -> tuple[str, str]:
    """What a class's docstring says in a sentence, and its equation: the first indented block, if it is of ours."""
    text = inspect.getdoc(factory) or ""
    summary = " ".join(text.split("\n\n")[0].split())
    if not factory.__module__.startswith("surefoot"):
        return summary, ""
    blocks = [part for part in text.split("\n\n") if part.startswith("    ")]
    return summary, textwrap.dedent(blocks[0]).strip() if blocks else ""


@cache
def measured(name: str) -> Mapping[str, float]:
    """The bytes for each element of a matrix that an optimizer keeps after a step, by the states' names."""
    chosen, p = entry(name), nn.Parameter(torch.ones(SIDE, SIDE))
    optimizer: torch.optim.Optimizer = chosen.factory([p], **{"lr": chosen.lr, **chosen.preset})
    p.grad = torch.ones_like(p)
    for _ in range(2):
        optimizer.step(lambda: 0.0)
    kept = {key: value for key, value in optimizer.state[p].items() if isinstance(value, Tensor) and value.ndim}
    return {key: value.numel() * value.element_size() / p.numel() for key, value in kept.items()}


@cache
def _knowledge() -> Mapping[str, Any]:
    return tomli.loads(files("surefoot.optim").joinpath("knowledge.toml").read_text(encoding="utf-8"))
