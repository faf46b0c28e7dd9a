"""AdEMAMix: Adam with a second, much slower average of gradients beside the first.

Pagliardini, Ablin & Grangier 2024, "The AdEMAMix optimizer: better, faster, older" (arXiv:2409.03137), algorithm 1,
with the schedulers of its appendix A.1: over T steps alpha grows from 0, and beta3 from beta1 so that the half-life of
the slow average grows linearly.
"""

from surefoot.rules.rule import Rule, X, log, maximum, minimum, sqrt, where


def scalars(t: X, beta1: X, beta2: X, beta3: X, alpha: X, alpha_warmup: X, beta3_warmup: X, eps: X):
    mixed = alpha * minimum(t / maximum(alpha_warmup, 1.0), 1.0)
    grown = minimum(t / maximum(beta3_warmup, 1.0), 1.0)
    short = where(beta1 > 0, log(0.5) / log(maximum(beta1, 1e-300)), 0.0)  # half-lives
    long = where(beta3 > 0, log(0.5) / log(maximum(beta3, 1e-300)), 0.0)
    slow = where(grown < 1, 0.5 ** (1 / maximum((1 - grown) * short + grown * long, 1e-300)), beta3)
    return beta1, 1 - beta1, beta2, 1 - beta2, slow, 1 - slow, mixed, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def direction(
    g: X, p: X, m: X, v: X, s: X, beta1: X, alpha1: X, beta2: X, alpha2: X, beta3: X, alpha3: X, mixed: X, bias1: X,
    root2: X, eps: X,
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    s = beta3 * s + alpha3 * g
    return (m / bias1 + mixed * s) / (sqrt(v) / root2 + eps), m, v, s


ademamix = Rule("AdEMAMix", scalars, direction, ("exp_avg", "exp_avg_sq", "exp_avg_slow"), momentum="exp_avg")
