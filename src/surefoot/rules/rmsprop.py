"""RMSprop, plain and centred, each with and without momentum.

Tieleman & Hinton 2012, "Lecture 6.5: rmsprop", Coursera: Neural Networks for Machine Learning.
Centred: Graves 2013, "Generating sequences with recurrent neural networks" (arXiv:1308.0850), eq. 38 to 41, with eps
outside the root as torch.optim has it.
"""

from surefoot.rules.rule import Rule, X, absolute, sqrt


def scalars(t: X, alpha: X, eps: X):
    return alpha, 1 - alpha, eps


def scalars_momentum(t: X, alpha: X, eps: X, momentum: X):
    return alpha, 1 - alpha, eps, momentum


def plain(g: X, p: X, v: X, alpha: X, share: X, eps: X):
    v = alpha * v + share * g * g
    return g / (sqrt(v) + eps), v


def with_momentum(g: X, p: X, v: X, b: X, alpha: X, share: X, eps: X, momentum: X):
    v = alpha * v + share * g * g
    b = momentum * b + g / (sqrt(v) + eps)
    return b, v, b


# v - m^2 is a variance, but rounding makes it negative where gradients hardly change: its size is what is meant
def centred(g: X, p: X, v: X, m: X, alpha: X, share: X, eps: X):
    v = alpha * v + share * g * g
    m = alpha * m + share * g
    return g / (sqrt(absolute(v - m * m)) + eps), v, m


def centred_with_momentum(g: X, p: X, v: X, b: X, m: X, alpha: X, share: X, eps: X, momentum: X):
    v = alpha * v + share * g * g
    m = alpha * m + share * g
    b = momentum * b + g / (sqrt(absolute(v - m * m)) + eps)
    return b, v, b, m


RULES = {  # keyed by (centred, with momentum)
    (False, False): Rule("RMSprop", scalars, plain, ("square_avg",)),
    (False, True): Rule(
        "RMSprop with momentum",
        scalars_momentum,
        with_momentum,
        ("square_avg", "momentum_buffer"),
        momentum="momentum_buffer",
    ),
    (True, False): Rule("centred RMSprop", scalars, centred, ("square_avg", "grad_avg")),
    (True, True): Rule(
        "centred RMSprop with momentum",
        scalars_momentum,
        centred_with_momentum,
        ("square_avg", "momentum_buffer", "grad_avg"),
        momentum="momentum_buffer",
    ),
}
