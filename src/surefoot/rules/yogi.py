"""Yogi: Adam whose second moment changes by no more than the squared gradient, so that it does not shrink fast.

Zaheer et al. 2018, "Adaptive methods for nonconvex optimization" (NeurIPS), algorithm 2, with Adam's bias corrections
as its authors' code has them.
"""

from surefoot.rules.rule import Rule, X, sign, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X):
    return beta1, 1 - beta1, 1 - beta2, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def direction(g: X, p: X, m: X, v: X, beta1: X, alpha1: X, alpha2: X, bias1: X, root2: X, eps: X):
    m = beta1 * m + alpha1 * g
    v = v - alpha2 * sign(v - g * g) * g * g
    return (m / bias1) / (sqrt(v) / root2 + eps), m, v


yogi = Rule(
    "Yogi",
    scalars,
    direction,
    ("exp_avg", "exp_avg_sq"),
    start={"exp_avg": "initial_accumulator", "exp_avg_sq": "initial_accumulator"},
    momentum="exp_avg",
)
