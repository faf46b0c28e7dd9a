"""LaProp: Adam with the order of momentum and normalisation exchanged.

Ziyin, Wang & Ueda 2020, "LaProp: separating momentum and adaptivity in Adam" (arXiv:2002.04839), algorithm 1.
"""

from surefoot.rules.rule import Rule, X, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X):
    return beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def direction(g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X):
    v = beta2 * v + alpha2 * g * g
    m = beta1 * m + alpha1 * g / (sqrt(v) / root2 + eps)
    return m / bias1, m, v


laprop = Rule("LaProp", scalars, direction, ("exp_avg", "exp_avg_sq"), momentum="exp_avg")
