"""What is left for the kernels of SOAP and Shampoo: to go the way that matrix operations have made.

SOAP: Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam" (arXiv:2409.11321), algorithm 3. Both
moments are in the eigenbasis, which only the engine knows (`surefoot.engine.matrix.soap`).
Shampoo: Gupta, Koren & Singer 2018, "Shampoo: preconditioned stochastic tensor optimization" (arXiv:1802.09568),
algorithm 1 (`surefoot.engine.matrix.shampoo`); the rule keeps the momentum.
"""

from surefoot.rules.rule import Rule, X


def scalars_soap(t: X):
    return ()


def direction_soap(g: X, p: X, o: X):
    return (o,)


def scalars(t: X, beta1: X):
    return beta1, 1 - beta1


def direction(g: X, p: X, o: X, m: X, beta: X, alpha: X):
    return o, beta * m + alpha * g


soap = Rule("SOAP", scalars_soap, direction_soap, given=True)
shampoo = Rule("Shampoo", scalars, direction, ("exp_avg",), momentum="exp_avg", given=True)
