"""Averaged stochastic gradient descent.

Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging" (SIAM J. Control Optim. 30), with the
falling rate eta_t = lr / (1 + lambd lr t)^alpha and the late averaging of Bottou's implementation, as torch.optim has
them: what eta and mu are in a step was worked out in the step before.
"""

from surefoot.rules.rule import Rule, X, maximum


def scalars(t: X, lr: X, lambd: X, alpha: X, t0: X, eta: X, mu: X):
    return eta, lambd * eta, mu, lr / (1 + lambd * lr * t) ** alpha, 1 / maximum(1.0, t - t0)


def direction(g: X, p: X, ax: X, eta: X, shrink: X, mu: X, lr: X, decay: X):
    d = shrink * p + eta * g
    return d, ax + mu * (p - d - ax)


asgd = Rule(
    "Averaged SGD", scalars, direction, ("ax",), numbers=("eta", "mu"), start={"eta": "lr", "mu": 1.0}, whole=True
)
