"""StableAdamW: AdamW whose rate shrinks for tensors where the second moment has fallen behind the gradient.

Wortsman et al. 2023, "Stable and low-precision training for large-scale vision-language models" (arXiv:2304.13013),
algorithm 2.
"""

from surefoot.rules.rule import Rule, X, maximum, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X):
    share1, share2 = (1 - beta1) / (1 - beta1**t), (1 - beta2) / (1 - beta2**t)
    return 1 - share1, share1, 1 - share2, share2, eps


def terms(g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, eps: X, lr: X, decay: X):
    v = beta2 * v + alpha2 * g * g
    return (g * g / maximum(v, eps * eps),)


def factors(n: X, ratio: X, *rest: X):
    return (1 / maximum(sqrt(ratio / maximum(n, 1.0)), 1.0),)


def direction(
    g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, eps: X, less: X, lr: X, decay: X
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    return less * lr * (m / (sqrt(v) + eps) + decay * p), m, v


stable_adamw = Rule(
    "StableAdamW",
    scalars,
    direction,
    ("exp_avg", "exp_avg_sq"),
    momentum="exp_avg",
    whole=True,
    terms=terms,
    factors=factors,
)
