"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam" (arXiv:2409.11321), algorithm 3. What is made of
the momentum comes from the engine (`surefoot.engine.soap`); the rule keeps the momentum. The first gradient only starts
the eigenbasis, as in the authors' code.
"""

from surefoot.rules.rule import Rule, X


def scalars(t: X, beta1: X):
    return beta1, (t > 1) * (1 - beta1)


def direction(g: X, p: X, o: X, m: X, beta: X, alpha: X):
    return o, beta * m + alpha * g


soap = Rule("SOAP", scalars, direction, ("exp_avg",), momentum="exp_avg", given=True)
