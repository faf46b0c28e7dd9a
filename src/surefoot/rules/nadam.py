"""NAdam: Adam with Nesterov momentum, whose share of the momentum grows from step to step.

Dozat 2016, "Incorporating Nesterov momentum into Adam" (ICLR workshop), algorithm 8, with the growth of mu in its
footnote: mu_t = beta1 (1 - 0.96^(t psi) / 2). `mu_product` is the product of all mu so far.
"""

from surefoot.rules.rule import Rule, X, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X, momentum_decay: X, mu_product: X):
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    following = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product = mu_product * mu
    now, then = (1 - mu) / (1 - product), following / (1 - product * following)
    return beta1, 1 - beta1, beta2, 1 - beta2, now, then, (1 - beta2**t) ** 0.5, eps, product


def direction(
    g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, now: X, then: X, root2: X, eps: X
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    return (now * g + then * m) / (sqrt(v) / root2 + eps), m, v


nadam = Rule(
    "NAdam",
    scalars,
    direction,
    ("exp_avg", "exp_avg_sq"),
    momentum="exp_avg",
    numbers=("mu_product",),
    start={"mu_product": 1.0},
)
