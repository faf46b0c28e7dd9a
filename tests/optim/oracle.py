"""The six algorithms once more, in numpy's extended precision, written from their papers and not from our rules."""

from __future__ import annotations

import numpy as np

L = np.longdouble


def run(name: str, options: dict, params: list, gradients: list) -> list:
    """The parameters after a step for each entry of `gradients`, all numbers in extended precision."""
    params = [np.asarray(p, dtype=L) for p in params]
    kept: list[dict] = [{} for _ in params]
    for t, grads in enumerate(gradients, start=1):
        for i, g in enumerate(grads):
            params[i] = STEPS[name](t, params[i], np.asarray(g, dtype=L), kept[i], **options)
    return params


def _signed(g, p, maximize, weight_decay):
    g = -g if maximize else g
    return g + L(weight_decay) * p


def sgd(t, p, g, kept, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False):
    g = _signed(g, p, maximize, weight_decay)
    if momentum:
        kept["b"] = g if t == 1 else L(momentum) * kept["b"] + (1 - L(dampening)) * g
        g = g + L(momentum) * kept["b"] if nesterov else kept["b"]
    return p - L(lr) * g


def adam(
    t, p, g, kept, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, maximize=False, decoupled=False
):
    beta1, beta2 = map(L, betas)
    g = _signed(g, p, maximize, 0 if decoupled else weight_decay)
    m = kept["m"] = beta1 * kept.get("m", L(0)) + (1 - beta1) * g
    v = kept["v"] = beta2 * kept.get("v", L(0)) + (1 - beta2) * g**2
    if amsgrad:
        v = kept["top"] = np.maximum(kept.get("top", L(0)), v)
    shrunk = p * (1 - L(lr) * L(weight_decay)) if decoupled else p
    return shrunk - L(lr) * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + L(eps))


def adamw(t, p, g, kept, weight_decay=1e-2, **options):
    return adam(t, p, g, kept, weight_decay=weight_decay, decoupled=True, **options)


def rmsprop(t, p, g, kept, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, maximize=False):
    g = _signed(g, p, maximize, weight_decay)
    v = kept["v"] = L(alpha) * kept.get("v", L(0)) + (1 - L(alpha)) * g**2
    if centered:
        kept["m"] = L(alpha) * kept.get("m", L(0)) + (1 - L(alpha)) * g
        v = v - kept["m"] ** 2
    d = g / (np.sqrt(v) + L(eps))
    if momentum:
        d = kept["b"] = L(momentum) * kept.get("b", L(0)) + d
    return p - L(lr) * d


def adagrad(t, p, g, kept, lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10, maximize=False):
    g = _signed(g, p, maximize, weight_decay)
    kept["s"] = kept.get("s", L(initial_accumulator_value)) + g**2
    return p - L(lr) / (1 + (t - 1) * L(lr_decay)) * g / (np.sqrt(kept["s"]) + L(eps))


STEPS = {"SGD": sgd, "Adam": adam, "AdamW": adamw, "RMSprop": rmsprop, "Adagrad": adagrad}
