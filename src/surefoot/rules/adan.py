"""Adan: Nesterov momentum from averages of the gradient and of its change.

Xie et al. 2022, "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models" (arXiv:2208.06677),
algorithm 1, with bias corrections as the authors' code has them; its betas are 1 minus the paper's. Weight decay is
proximal: p = (p - lr u) / (1 + lr weight_decay).
"""

from surefoot.rules.rule import Rule, X, sqrt


def scalars(t: X, beta1: X, beta2: X, beta3: X, eps: X):
    bias1, ahead, root3 = 1 - beta1**t, beta2 / (1 - beta2**t), (1 - beta3**t) ** 0.5
    return beta1, 1 - beta1, beta2, 1 - beta2, beta3, 1 - beta3, bias1, ahead, root3, 1.0 * (t > 1), 1.0, eps


def direction(
    g: X, p: X, m: X, v: X, n: X, before: X, beta1: X, alpha1: X, beta2: X, alpha2: X, beta3: X, alpha3: X, bias1: X,
    ahead: X, root3: X, later: X, one: X, eps: X, lr: X, decay: X,
):  # fmt: skip
    change = later * (g - before)  # at the first step there is none
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * change
    look = g + beta2 * change
    n = beta3 * n + alpha3 * look * look
    u = (m / bias1 + ahead * v) / (sqrt(n) / root3 + eps)
    return lr * (u + decay * p) / (one + lr * decay), m, v, n, g


adan = Rule(
    "Adan",
    scalars,
    direction,
    ("exp_avg", "exp_avg_diff", "exp_avg_sq", "pre_grad"),
    momentum="exp_avg",
    whole=True,
)
