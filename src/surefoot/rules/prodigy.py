"""Prodigy: AdamW that estimates its rate from how far the parameters have come, and only ever raises it.

Mishchenko & Defazio 2023, "Prodigy: an expeditiously adaptive parameter-free learner" (arXiv:2306.06101), algorithm 4,
with `d_coef`, `growth_rate` and the safeguard for warm-up as in the authors' code.
"""

from surefoot.rules.rule import Rule, X, absolute, maximum, minimum, sqrt, where


def scalars(
    t: X, lr: X, beta1: X, beta2: X, beta3: X, eps: X, use_bias_correction: X, safeguard_warmup: X, d: X, d0: X,
    d_max: X, d_numerator: X, d_coef: X, growth_rate: X,
):  # fmt: skip
    bias = where(use_bias_correction > 0, (1 - beta2**t) ** 0.5 / (1 - beta1**t), 1.0)
    weight = d / d0 * where(safeguard_warmup > 0, d, d * lr * bias)
    learns = 1.0 * (lr > 0)  # a group at rest neither learns nor is asked
    kept3, kept1, kept2 = 1 - learns + learns * beta3, 1 - learns + learns * beta1, 1 - learns + learns * beta2
    alpha1, alpha2 = learns * d * (1 - beta1), learns * d * d * (1 - beta2)
    gained = learns * d / d0 * d * lr * bias
    return kept3, kept1, kept2, learns, learns * weight, alpha1, alpha2, gained, d * bias, eps


def terms(
    g: X, p: X, m: X, v: X, s: X, p0: X, beta3: X, beta1: X, beta2: X, learns: X, weight: X, alpha1: X, alpha2: X,
    gained: X, rate: X, eps: X, lr: X, decay: X,
):  # fmt: skip
    return gained * g * (p0 - p), learns * absolute(beta3 * s + weight * g)


def factors(
    gained: X, size: X, lr: X, beta1: X, beta2: X, beta3: X, eps: X, use_bias_correction: X, safeguard_warmup: X, d: X,
    d0: X, d_max: X, d_numerator: X, d_coef: X, growth_rate: X,
):  # fmt: skip
    known = size > 0  # all groups are told the same, those at rest too
    numerator = where(known, beta3 * d_numerator + gained, d_numerator)
    estimate = where(known, d_coef * numerator / where(known, size, 1.0), d_max)
    first = where(d == d0, maximum(d, estimate), d)
    highest = maximum(d_max, estimate)
    return where(known, minimum(highest, first * growth_rate), d), highest, numerator


def direction(
    g: X, p: X, m: X, v: X, s: X, p0: X, beta3: X, beta1: X, beta2: X, learns: X, weight: X, alpha1: X, alpha2: X,
    gained: X, rate: X, eps: X, d: X, d_max: X, d_numerator: X, lr: X, decay: X,
):  # fmt: skip
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    s = beta3 * s + weight * g
    return lr * rate * (m / (sqrt(v) + d * eps) + decay * p), m, v, s, p0


prodigy = Rule(
    "Prodigy",
    scalars,
    direction,
    ("exp_avg", "exp_avg_sq", "s", "p0"),
    start={"p0": "p"},
    momentum="exp_avg",
    whole=True,
    terms=terms,
    factors=factors,
    common=("d", "d_max", "d_numerator"),
)
