"""Adadelta.

Zeiler 2012, "ADADELTA: an adaptive learning rate method" (arXiv:1212.5701), algorithm 1.
"""

from surefoot.rules.rule import Rule, X, sqrt


def scalars(t: X, rho: X, eps: X):
    return rho, 1 - rho, eps


def direction(g: X, p: X, v: X, u: X, rho: X, share: X, eps: X):
    v = rho * v + share * g * g
    d = sqrt(u + eps) / sqrt(v + eps) * g
    u = rho * u + share * d * d
    return d, v, u


adadelta = Rule("Adadelta", scalars, direction, ("square_avg", "acc_delta"))
