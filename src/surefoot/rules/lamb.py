"""LAMB and LARS: the step of each tensor is made as long as a share of the tensor itself.

LAMB: You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes" (arXiv:1904.00962),
algorithm 2, with phi the identity.
LARS: You, Gitman & Ginsburg 2017, "Large batch training of convolutional networks" (arXiv:1708.03888), algorithm 1,
with the rate outside of the momentum as in all its implementations.
"""

from surefoot.rules.rule import Rule, X, sqrt, where


def scalars(t: X, beta1: X, beta2: X, eps: X):
    return beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def terms(
    g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X, lr: X, decay: X
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    u = (m / bias1) / (sqrt(v) / root2 + eps) + decay * p
    return u * u, p * p


def factors(n: X, u2: X, p2: X, *rest: X):
    known = (u2 > 0) & (p2 > 0)
    return (where(known, sqrt(p2 / where(known, u2, 1.0)), 1.0),)


def direction(
    g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X, trust: X, lr: X,
    decay: X,
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    u = (m / bias1) / (sqrt(v) / root2 + eps) + decay * p
    return lr * trust * u, m, v


lamb = Rule(
    "LAMB", scalars, direction, ("exp_avg", "exp_avg_sq"), momentum="exp_avg", whole=True, terms=terms, factors=factors
)


def scalars_lars(t: X, momentum: X, trust_coefficient: X, eps: X):
    return momentum, trust_coefficient, eps


def terms_lars(g: X, p: X, b: X, momentum: X, coefficient: X, eps: X, lr: X, decay: X):
    return g * g, p * p


def factors_lars(n: X, g2: X, p2: X, momentum: X, coefficient: X, eps: X, lr: X, decay: X):
    trust = coefficient * sqrt(p2) / (sqrt(g2) + decay * sqrt(p2) + eps)
    return (where((g2 > 0) & (p2 > 0), trust, 1.0),)


def direction_lars(g: X, p: X, b: X, momentum: X, coefficient: X, eps: X, trust: X, lr: X, decay: X):
    b = momentum * b + trust * (g + decay * p)
    return lr * b, b


lars = Rule(
    "LARS",
    scalars_lars,
    direction_lars,
    ("momentum_buffer",),
    counted=False,
    momentum="momentum_buffer",
    whole=True,
    terms=terms_lars,
    factors=factors_lars,
)
