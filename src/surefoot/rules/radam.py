"""RAdam: Adam that leaves out its denominator until the variance of that can be told, and corrects for it from then on.

Liu et al. 2020, "On the variance of the adaptive learning rate and beyond" (arXiv:1908.03265), algorithm 2, with eps
as torch.optim has it.
"""

from surefoot.rules.rule import Rule, X, maximum, sqrt, where


def scalars(t: X, beta1: X, beta2: X, eps: X):
    most = 2 / (1 - beta2) - 1
    rho = most - 2 * t * beta2**t / (1 - beta2**t)
    share = (rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)
    known = where(rho > 5, 1.0, 0.0)
    rectified = known * maximum(share, 0.0) ** 0.5 * (1 - beta2**t) ** 0.5
    return beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**t, 1 - known, rectified, eps


def direction(
    g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, plain: X, rectified: X, eps: X
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    return m / bias1 * (plain + rectified / (sqrt(v) + eps)), m, v


radam = Rule("RAdam", scalars, direction, ("exp_avg", "exp_avg_sq"), momentum="exp_avg")
