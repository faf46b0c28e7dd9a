"""Rprop: a step size for each element, which grows while the gradient keeps its sign. For whole batches only.

Riedmiller & Braun 1993, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm" (IEEE
ICNN), as torch.optim has it: where the sign changes there is no step (Igel & Huesken 2000, Rprop-).
"""

from surefoot.rules.rule import Rule, X, maximum, minimum, sign, where


def scalars(t: X, eta1: X, eta2: X, step_size1: X, step_size2: X):
    return eta1, eta2, step_size1, step_size2, 0.0


def direction(
    g: X, p: X, before: X, size: X, less: X, more: X, least: X, most: X, zero: X, lr: X, decay: X
):  # fmt: skip
    agree = g * before
    grown = where(agree > zero, size * more, size)
    size = minimum(maximum(where(agree < zero, size * less, grown), least), most)
    g = where(agree < zero, zero, g)
    return sign(g) * size, g, size


rprop = Rule("Rprop", scalars, direction, ("prev", "step_size"), start={"step_size": "lr"}, whole=True)
