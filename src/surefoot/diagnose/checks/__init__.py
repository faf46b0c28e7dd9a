"""Exact checks: plain functions of model, optimizer, loss and batch that are to say only what is certain.

Of a loss they know the kind if it is one of torch's; in a lambda, or written by hand, it is any loss to them.

None changes anything: no weight, buffer, gradient, mode or random number.
"""

from surefoot.diagnose.checks.data import constant_labels, non_finite, unscaled_inputs, unscaled_targets
from surefoot.diagnose.checks.found import Found
from surefoot.diagnose.checks.gradient import summed, without_gradient
from surefoot.diagnose.checks.head import activation, labels, reach, shapes
from surefoot.diagnose.checks.wiring import frozen, left_out, mistaken, uphill, without_rate

__all__ = [
    "Found",
    "activation",
    "constant_labels",
    "frozen",
    "labels",
    "left_out",
    "mistaken",
    "non_finite",
    "reach",
    "shapes",
    "summed",
    "unscaled_inputs",
    "unscaled_targets",
    "uphill",
    "without_gradient",
    "without_rate",
]
