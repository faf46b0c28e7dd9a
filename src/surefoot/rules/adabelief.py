"""AdaBelief: Adam whose second moment is that of the gradient's distance from its running average.

Zhuang et al. 2020, "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients" (arXiv:2010.07468),
algorithm 2: eps is added in the average and once more beside its root.
"""

from surefoot.rules.rule import Rule, X, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X):
    return beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def direction(g: X, p: X, m: X, s: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X):
    m = beta1 * m + alpha1 * g
    s = beta2 * s + alpha2 * (g - m) * (g - m) + eps
    return (m / bias1) / (sqrt(s) / root2 + eps), m, s


adabelief = Rule("AdaBelief", scalars, direction, ("exp_avg", "exp_avg_var"), momentum="exp_avg")
