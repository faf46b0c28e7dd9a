"""Adafactor: Adam's second moment from the means of rows and columns, no momentum, and a rate in shares of the weights.

Shazeer & Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost" (arXiv:1804.04235), algorithm 4.
The update, rate included, is made by the engine (`surefoot.engine.matrix.factored`); what is left is weight decay.
"""

from surefoot.rules.rule import Rule, X


def scalars(t: X):
    return ()


def direction(g: X, p: X, o: X, lr: X, decay: X):
    return (o + lr * decay * p,)


adafactor = Rule("Adafactor", scalars, direction, whole=True, given=True)
