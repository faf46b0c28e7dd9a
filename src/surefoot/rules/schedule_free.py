"""Schedule-Free: steps from a point between a fast sequence z and its average x, which is what to evaluate.

Defazio et al. 2024, "The road less scheduled" (arXiv:2405.15682), eq. 3 to 5 and algorithm 1; the average weighs steps
by t^r lr_max^power, and rates grow over the first `warmup_steps`, as the authors' code has it. Kept are z and the point
y where gradients are taken, which is the parameter.
"""

from surefoot.rules.rule import Rule, X, maximum, minimum, sqrt


def scalars_sgd(t: X, lr: X, momentum: X, warmup_steps: X, r: X, weight_lr_power: X, lr_max: X, weight_sum: X):
    ramp = minimum(t / maximum(warmup_steps, 1.0), 1.0)
    lr_max = maximum(lr * ramp, lr_max)
    weight = t**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    c = weight / maximum(weight_sum, 1e-300)  # the share of z in the new average
    return c, ramp * (1 - momentum * (1 - c)), ramp, lr_max, weight_sum


def direction_sgd(g: X, p: X, z: X, c: X, step: X, ramp: X, lr: X, decay: X):
    u = lr * (g + decay * p)
    return c * (p - z) + step * u, z - ramp * u


def scalars(
    t: X, lr: X, beta1: X, beta2: X, eps: X, warmup_steps: X, r: X, weight_lr_power: X, lr_max: X, weight_sum: X
):  # fmt: skip
    ramp = minimum(t / maximum(warmup_steps, 1.0), 1.0)
    lr_max = maximum(lr * ramp, lr_max)
    weight = t**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    c = weight / maximum(weight_sum, 1e-300)
    step = ramp * (1 - beta1 * (1 - c))
    return c, step, ramp, beta2, 1 - beta2, (1 - beta2**t) ** 0.5, eps, lr_max, weight_sum


def direction(
    g: X, p: X, z: X, v: X, c: X, step: X, ramp: X, beta2: X, alpha2: X, root2: X, eps: X, lr: X, decay: X
):  # fmt: skip
    v = beta2 * v + alpha2 * g * g
    u = lr * (g / (sqrt(v) / root2 + eps) + decay * p)
    return c * (p - z) + step * u, z - ramp * u, v


schedule_free_sgd = Rule(
    "Schedule-Free SGD",
    scalars_sgd,
    direction_sgd,
    ("z",),
    start={"z": "p"},
    numbers=("lr_max", "weight_sum"),
    whole=True,
)
schedule_free_adamw = Rule(
    "Schedule-Free AdamW",
    scalars,
    direction,
    ("z", "exp_avg_sq"),
    start={"z": "p"},
    numbers=("lr_max", "weight_sum"),
    whole=True,
)
