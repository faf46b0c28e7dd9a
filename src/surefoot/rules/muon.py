"""Muon: momentum of matrices, made orthogonal.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon). What
is made of gradient and momentum comes from the engine (`surefoot.engine.matrix.muon`); the rule keeps the momentum.
"""

from surefoot.rules.rule import Rule, X


def scalars(t: X, momentum: X):
    return momentum, 1 - momentum


def direction(g: X, p: X, o: X, m: X, beta: X, alpha: X):
    return o, beta * m + alpha * g


muon = Rule("Muon", scalars, direction, ("momentum_buffer",), counted=False, momentum="momentum_buffer", given=True)
