"""Adam, and AMSGrad.

Kingma & Ba 2015, "Adam: a method for stochastic optimization" (arXiv:1412.6980), algorithm 1.
AMSGrad: Reddi, Kale & Kumar 2018, "On the convergence of Adam and beyond" (arXiv:1904.09237), algorithm 2, with
Adam's bias corrections as torch.optim has them.
AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2) is this rule with decoupled weight decay, which is
the engine's.
"""

from dataclasses import replace

from surefoot.rules.rule import Rule, X, maximum, sqrt


def scalars(t: X, beta1: X, beta2: X, eps: X):
    return beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1**t, (1 - beta2**t) ** 0.5, eps


def direction(g: X, p: X, m: X, v: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X):
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    return (m / bias1) / (sqrt(v) / root2 + eps), m, v


def direction_max(g: X, p: X, m: X, v: X, top: X, beta1: X, alpha1: X, beta2: X, alpha2: X, bias1: X, root2: X, eps: X):
    m = beta1 * m + alpha1 * g
    v = beta2 * v + alpha2 * g * g
    top = maximum(top, v)
    return (m / bias1) / (sqrt(top) / root2 + eps), m, v, top


adam = Rule("Adam", scalars, direction, ("exp_avg", "exp_avg_sq"), momentum="exp_avg")
lazy_adam = replace(adam, name="lazy Adam", sparse=True)
amsgrad = Rule("AMSGrad", scalars, direction_max, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), momentum="exp_avg")
