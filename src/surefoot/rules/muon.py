"""Rules that are given a direction, and keep the momentum that it was made of; and Adafactor's, which keeps nothing.

Muon: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon).
SOAP: Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam" (arXiv:2409.11321), algorithm 3.
Shampoo: Gupta, Koren & Singer 2018 (arXiv:1802.09568), algorithm 1.
Adafactor: Shazeer & Stern 2018 (arXiv:1804.04235), algorithm 4.
"""

from surefoot.rules.rule import Rule, X


def scalars(t: X, momentum: X):
    return momentum, 1 - momentum


def direction(g: X, p: X, o: X, m: X, beta: X, alpha: X):
    return o, beta * m + alpha * g


muon = Rule("Muon", scalars, direction, ("momentum_buffer",), counted=False, momentum="momentum_buffer", given=True)
