"""Adamax.

Kingma & Ba 2015, "Adam: a method for stochastic optimization" (arXiv:1412.6980), algorithm 2, with eps beside the
gradient's size as torch.optim has it.
"""

from surefoot.rules.rule import Rule, X, absolute, maximum


def scalars(t: X, beta1: X, beta2: X, eps: X):
    return beta1, 1 - beta1, beta2, 1 - beta1**t, eps


def direction(g: X, p: X, m: X, u: X, beta1: X, alpha1: X, beta2: X, bias1: X, eps: X):
    m = beta1 * m + alpha1 * g
    u = maximum(beta2 * u, absolute(g) + eps)
    return (m / bias1) / u, m, u


adamax = Rule("Adamax", scalars, direction, ("exp_avg", "exp_inf"), momentum="exp_avg")
