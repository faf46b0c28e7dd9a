"""Stochastic gradient descent, plain and with momentum.

Heavy-ball momentum: Polyak 1964, "Some methods of speeding up the convergence of iteration methods", eq. 9.
Nesterov momentum in the form of Sutskever et al. 2013, "On the importance of initialization and momentum", eq. 7,
written for the look-ahead point as torch.optim.SGD does. `dampening` (torch) shrinks all but the first gradient.
"""

from surefoot.rules.rule import Rule, X


def scalars_plain(t: X):
    return ()


def plain(g: X, p: X):
    return (g,)


def scalars(t: X, momentum: X, dampening: X):
    return momentum, 1 - dampening * (t > 1)  # the buffer starts as the first gradient, undampened


def heavy_ball(g: X, p: X, b: X, momentum: X, share: X):
    b = momentum * b + share * g
    return b, b


def lookahead(g: X, p: X, b: X, momentum: X, share: X):
    b = momentum * b + share * g
    return g + momentum * b, b


sgd = Rule("SGD", scalars_plain, plain, counted=False, sparse=True)
momentum = Rule(
    "SGD with heavy-ball momentum",
    scalars,
    heavy_ball,
    ("momentum_buffer",),
    counted=False,
    momentum="momentum_buffer",
)
nesterov = Rule(
    "SGD with Nesterov momentum",
    scalars,
    lookahead,
    ("momentum_buffer",),
    counted=False,
    momentum="momentum_buffer",
)
