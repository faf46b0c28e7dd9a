"""The equations of docstrings, parsed and executed: an implementation of every optimizer that is independent of ours.

An equation is lines `name = expression`, executed in this order at each step. Names are p, g, t, lr, the constructor's
hyper-parameters (beta1 for betas[0], and so on) and states, which keep their value from step to step: they start at 0,
or at what a line `name0 = expression` says.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import surefoot as sf
from surefoot.optim.info import described

L = np.longdouble

OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
    ast.Lt: lambda a, b: a < b,
    ast.Gt: lambda a, b: a > b,
    ast.Eq: lambda a, b: a == b,
}


def norm(x):
    return np.sqrt((x * x).sum())


def newton_schulz(x, steps=5, coefficients=(3.4445, -4.7750, 2.0315)):
    a, b, c = map(L, coefficients)
    flat = x.reshape(len(x), -1)
    y = flat / norm(flat)
    for _ in range(steps):
        z = y @ y.T
        y = a * y + (b * z + c * (z @ z)) @ y
    return y.reshape(x.shape)


def rows_gram(x):
    return x @ x.T if x.ndim > 1 else L(1)


def columns_gram(x):
    return x.T @ x if x.ndim > 1 else L(1)


def eigenvectors(x):
    return np.linalg.eigh(x.astype(np.float64))[1][:, ::-1].astype(L) if np.ndim(x) else L(1)


def into(x, q, s):
    return q.T @ x @ s if np.ndim(q) else x


def out_of(x, q, s):
    return q @ x @ s.T if np.ndim(q) else x


def precondition(m, left, right, eps=1e-6):
    """Of vectors nothing, whose length is all that counts then."""
    if not np.ndim(left):
        return m
    roots = []
    for each in (left, right):
        values, vectors = np.linalg.eigh(each.astype(np.float64))
        values = values.clip(0) + eps * values.max()
        roots.append((vectors * values**-0.25) @ vectors.T)
    return roots[0] @ m @ roots[1]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": np.sqrt,
    "log": np.log,
    "sign": np.sign,
    "abs": np.abs,
    "max": np.maximum,
    "min": np.minimum,
    "where": np.where,
    "norm": norm,
    "sum": np.sum,
    "rms": lambda x: norm(x) / np.sqrt(L(max(1, x.size))),
    "mean": lambda x: x.mean(-2, keepdims=True) if x.ndim > 1 else L(1),
    "row_mean": lambda x: x.mean(-1, keepdims=True) if x.ndim > 1 else x,
    "column_mean": lambda x: x.mean(-2, keepdims=True) if x.ndim > 1 else L(1),
    "rows": len,
    "rows_gram": rows_gram,
    "columns_gram": columns_gram,
    "eigenvectors": eigenvectors,
    "into": into,
    "out_of": out_of,
    "precondition": precondition,
    "columns": lambda x: L(x.size / len(x)),
    "newton_schulz": newton_schulz,
}


class Equation:
    """An equation as a class's docstring has it. `total(x)` sums over all parameters, so these move line by line."""

    def __init__(self, text: str) -> None:
        tree = ast.parse(text.replace("^", "**"))
        self.lines: list[tuple[str, ast.expr]] = []
        for node in tree.body:
            assert isinstance(node, ast.Assign), f"this is no line of an equation: {ast.unparse(node)}"
            (target,) = node.targets
            assert isinstance(target, ast.Name), f"this is no name: {ast.unparse(target)}"
            self.lines.append((target.id, node.value))
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        starts = {name for name, _ in self.lines if name.endswith("0") and name not in read and name[:-1] in read}
        self.first = {name[:-1]: value for name, value in self.lines if name in starts}
        self.lines = [(name, value) for name, value in self.lines if name not in starts]
        assert "p" in dict(self.lines), "an equation says what becomes of p"

    def run(self, params: list, gradients: list, hyper: dict[str, Any], coupled: bool) -> list:
        """The parameters after a step for each entry of `gradients`, in extended precision."""
        every = [{"p": np.asarray(p, dtype=L), **hyper} for p in params]
        for t, grads in enumerate(gradients, start=1):
            for known, g in zip(every, grads, strict=True):
                g = np.asarray(g, dtype=L) * (-1 if hyper.get("maximize") else 1)
                known |= {"t": L(t), "g": g + hyper.get("weight_decay", 0) * known["p"] if coupled else g}
                if t == 1:
                    known |= {name: self.value(each, known, every) for name, each in self.first.items()}
            for name, expression in self.lines:
                values = [self.value(expression, known, every) for known in every]
                for known, value in zip(every, values, strict=True):
                    known[name] = value
        return [known["p"] for known in every]

    def value(self, node: ast.expr, known: dict[str, Any], every: list[dict[str, Any]]) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return L(str(node.value))
        if isinstance(node, ast.Name):
            if node.id not in known:
                assert any(name == node.id for name, _ in self.lines), f"what is {node.id}?"
                known[node.id] = L(0)
            return known[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.value(node.operand, known, every)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            with np.errstate(all="ignore"):
                left, right = (self.value(each, known, every) for each in (node.left, node.right))
                return OPERATORS[type(node.op)](left, right)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
            left, right = (self.value(each, known, every) for each in (node.left, node.comparators[0]))
            return OPERATORS[type(node.ops[0])](left, right)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id == "total":
                return sum(self.value(node.args[0], each, every).sum() for each in every)
            assert node.func.id in FUNCTIONS, f"what is {node.func.id}()?"
            with np.errstate(all="ignore"):
                return FUNCTIONS[node.func.id](*(self.value(each, known, every) for each in node.args))
        raise AssertionError(f"equations know no {ast.unparse(node)}")


def hyper_parameters(group: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a group by the names that equations use."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, bool | int | float):
            found[name] = value if isinstance(value, bool) else L(value)
        elif isinstance(value, tuple) and name.endswith("s"):
            found |= {f"{name[:-1]}{i}": L(x) for i, x in enumerate(value, 1) if x is not None}
            found |= {f"{name}{i}": L(x) for i, x in enumerate(value, 1) if x is not None}
    return found


def truth(name: str, options: dict, start: list, gradients: list, text: str | None = None) -> list:
    """Where an optimizer's equation, or this one, leads in extended precision."""
    optimizer = getattr(sf.optim, name)([torch.zeros(2, 2, requires_grad=True)], **options)
    group = optimizer.param_groups[0]
    coupled = "weight_decay" in group and not optimizer.decoupled(group)
    text = text or described(type(optimizer))[1]
    return Equation(text).run(start, gradients, hyper_parameters(group), coupled)
