"""Adagrad.

Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR 12,
the diagonal form of figure 1. `lr_decay` (torch) shrinks the rate by 1 / (1 + (t - 1) lr_decay).
"""

from surefoot.rules.rule import Rule, X, sqrt


def scalars(t: X, lr_decay: X, eps: X):
    return 1 / (1 + (t - 1) * lr_decay), eps


def direction(g: X, p: X, s: X, rate: X, eps: X):
    s = s + g * g
    return rate * g / (sqrt(s) + eps), s


adagrad = Rule("Adagrad", scalars, direction, ("sum",), start={"sum": "initial_accumulator_value"}, sparse=True)
