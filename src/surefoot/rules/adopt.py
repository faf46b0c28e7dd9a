"""ADOPT: Adam that divides each gradient by the second moment of those before it, so that any beta2 converges.

Taniguchi et al. 2024, "ADOPT: modified Adam can converge with any beta2 with the optimal rate" (arXiv:2411.02853),
algorithm 2: the first gradient only starts the second moment, and normalised gradients are cut at t^(1/4).
"""

from surefoot.rules.rule import Rule, X, maximum, minimum, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X):
    later = 1.0 * (t > 1)
    return beta1, later * (1 - beta1), later * beta2, 1 - later * beta2, (t - 1) ** 0.25, eps


def direction(g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bound: X, eps: X):
    scaled = g / maximum(sqrt(v), eps)
    m = beta1 * m + alpha1 * minimum(maximum(scaled, -bound), bound)
    v = beta2 * v + alpha2 * g * g
    return m, m, v


adopt = Rule("ADOPT", scalars, direction, ("exp_avg", "exp_avg_sq"), momentum="exp_avg")
