"""Lion, and Signum: steps by the sign of a momentum.

Lion: Chen et al. 2023, "Symbolic discovery of optimization algorithms" (arXiv:2302.06675), algorithm 2.
Signum: Bernstein et al. 2018, "signSGD: compressed optimisation for non-convex problems" (arXiv:1802.04434),
algorithm 2.
"""

from surefoot.rules.rule import Rule, X, sign


def scalars(t: X, beta1: X, beta2: X):
    return beta1, 1 - beta1, beta2, 1 - beta2


def direction(g: X, p: X, m: X, beta1: X, alpha1: X, beta2: X, alpha2: X):
    return sign(beta1 * m + alpha1 * g), beta2 * m + alpha2 * g


def scalars_signum(t: X, momentum: X):
    return momentum, 1 - momentum


def direction_signum(g: X, p: X, m: X, beta: X, alpha: X):
    m = beta * m + alpha * g
    return sign(m), m


lion = Rule("Lion", scalars, direction, ("exp_avg",), counted=False, momentum="exp_avg")
signum = Rule(
    "Signum", scalars_signum, direction_signum, ("momentum_buffer",), counted=False, momentum="momentum_buffer"
)
