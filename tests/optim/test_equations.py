"""Every optimizer does what the equation in its docstring says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import ALL, IDS, MORE, MORE_IDS, replay
from equations import Equation, truth

import surefoot as sf
from surefoot.optim.info import described

CLASSES = [c for c in vars(sf.optim).values() if isinstance(c, type) and issubclass(c, sf.optim.Optimizer)]
CLASSES = [c for c in CLASSES if c is not sf.optim.Optimizer]
SHAPES = [(6, 4), (3, 3), (5,), (1,)]
# Muon is for matrices; eigenvectors are unique for square ones only, whose first gradient has no kernel
ONLY = {"Muon": SHAPES[:2], "SOAP": SHAPES[1:]}
NEAR = {"Muon": 1e-6, "SOAP": 1e-6, "Shampoo": 1e-6}  # in double precision themselves


def problem(name: str, steps: int = 30) -> tuple[list, list]:
    generator = torch.Generator().manual_seed(1)
    shapes = ONLY.get(name, SHAPES)
    start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return start, [[torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(steps)]


def difference(name: str, options: dict, text: str | None = None) -> float:
    """How far a class is from an equation, by default its own, in shares of how far the parameters went."""
    start, gradients = problem(name)
    end = truth(name, options, start, gradients, text)
    errors = [
        np.abs(p.numpy() - q).max()
        for p, q in zip(replay(getattr(sf.optim, name), options, start, gradients, torch.float64), end, strict=True)
    ]
    went = [np.abs(p.numpy() - q).max() for p, q in zip(start, end, strict=True)]
    assert all(way > 1e-7 for way in went)
    return float(max(error / way for error, way in zip(errors, went, strict=True)))


@pytest.mark.parametrize("case", [*ALL, *MORE], ids=[*IDS, *MORE_IDS])
def test_the_equation_is_what_the_class_does(case):
    name, options = case
    assert difference(name, options) < NEAR.get(name, 1e-9)


def test_every_class_has_an_equation_and_a_case():
    tested = {name for name, _ in (*ALL, *MORE)}
    for each in CLASSES:
        summary, text = described(each)
        assert Equation(text).lines, each.__name__
        assert summary.endswith(".")
        assert each.__name__ in tested, each.__name__


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("(1 - beta1) * g", "beta1 * g"), ("sqrt(top) /", "top /"), ("+ weight_decay * p", "- weight_decay * p")],
)
def test_a_wrong_equation_is_found(right, wrong):
    _, text = described(sf.optim.AdamW)
    assert right in text
    assert difference("AdamW", {"weight_decay": 0.1}, text.replace(right, wrong, 1)) > 1e-4


@pytest.mark.parametrize(
    "text",
    ["where g is the gradient", "m = beta1 * m + f(g)", "m = [g]", "p = p - lr * q", "p += g", "p = p - lr * g.sum"],
)
def test_what_is_no_equation_is_refused(text):
    with pytest.raises((AssertionError, SyntaxError)):
        Equation(text).run([np.ones(1)], [[np.ones(1)]], {"lr": 1, "beta1": 0.5}, False)
