"""MARS-AdamW: AdamW on gradients whose variance is reduced by the change since the step before.

Yuan et al. 2024, "MARS: unleashing the power of variance reduction for training large models" (arXiv:2411.10438),
algorithm 2 (with the gradient of the last batch for that of the last parameters, which its section 3.3 calls
approximate) and algorithm 3.
"""

from surefoot.rules.rule import Rule, X, maximum, sqrt


def scalars(t: X, beta1: X, beta2: X, gamma: X, eps: X):
    change = 1.0 * (t > 1) * gamma * beta1 / (1 - beta1)  # at the first step there is none
    return change, beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def terms(
    g: X, p: X, m: X, v: X, before: X, change: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X
):  # fmt: skip
    c = g + change * (g - before)
    return (c * c,)


def factors(n: X, c2: X, *scalars: X):
    return (1 / maximum(sqrt(c2), 1.0),)


def direction(
    g: X, p: X, m: X, v: X, before: X, change: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X,
    clip: X,
):  # fmt: skip
    c = clip * (g + change * (g - before))
    m = beta1 * m + alpha1 * c
    v = beta2 * v + alpha2 * c * c
    return (m / bias1) / (sqrt(v) / root2 + eps), m, v, g


mars = Rule(
    "MARS-AdamW",
    scalars,
    direction,
    ("exp_avg", "exp_avg_sq", "last_grad"),
    momentum="exp_avg",
    terms=terms,
    factors=factors,
)
