"""The pieces that schedules are made of: each a formula in t, which `value` states.

The guide's three schedules (section 4), for 200 epochs:

>>> from surefoot.schedule import cosine, linear, step
>>> step(30, 0.1)(60)                          # a tenth of the rate every 30 epochs
0.010000000000000002
>>> cosine(200)(100)                           # half a cosine, from 1 to 0
0.5
>>> guide = linear(0.1, 1, 5) >> cosine(195)   # 5 epochs of warm-up, then cosine
>>> guide
linear(0.1, 1, 5) >> cosine(195)
>>> [guide(t) for t in (0, 5, 200)]
[0.1, 1.0, 0.0]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from surefoot.schedule.shape import Shape, number, raised, shape, time
from surefoot.schedule.times import Time


@shape("constant")
@dataclass(frozen=True, repr=False)
class Constant(Shape):
    """The same factor all along: f(t) = factor.

    >>> import surefoot as sf
    >>> sf.schedule.constant(0.5, 10)(3)
    0.5
    """

    factor: float = number(1)
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, factor: float) -> float:
        return float(factor)


@shape("step")
@dataclass(frozen=True, repr=False)
class Step(Shape):
    """Step decay: f(t) = gamma ^ floor(t / every), as torch's StepLR.

    >>> import surefoot as sf
    >>> [sf.schedule.step(30, 0.1)(t) for t in (0, 29, 30)]
    [1.0, 1.0, 0.1]
    """

    every: Time = time()
    gamma: float = number(0.1)
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, every: float, gamma: float) -> float:
        return raised(gamma, t // every)


@shape("multistep")
@dataclass(frozen=True, repr=False)
class MultiStep(Shape):
    """A factor at each milestone: f(t) = gamma ^ (how many milestones are at t or before), as torch's MultiStepLR.

    >>> import surefoot as sf
    >>> [sf.schedule.multistep((30, 80))(t) for t in (29, 30, 80)]
    [1.0, 0.1, 0.010000000000000002]
    """

    milestones: tuple[Time, ...] = time()
    gamma: float = number(0.1)
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, milestones: tuple[float, ...], gamma: float) -> float:
        return raised(gamma, sum(t >= milestone for milestone in milestones))


@shape("exponential")
@dataclass(frozen=True, repr=False)
class Exponential(Shape):
    """Exponential decay: f(t) = gamma ^ t, as torch's ExponentialLR.

    >>> import surefoot as sf
    >>> sf.schedule.exponential(0.5)(2)
    0.25
    """

    gamma: float = number()
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, gamma: float) -> float:
        return raised(gamma, t)


@shape("linear")
@dataclass(frozen=True, repr=False)
class Linear(Shape):
    """A straight line: f(t) = start + (end - start) t / length, as torch's LinearLR; warm-up, or decay to zero.

    >>> import surefoot as sf
    >>> [sf.schedule.linear(0.1, 1, 5)(t) for t in (0, 5, 100)]
    [0.1, 1.0, 1.0]
    """

    stretches: ClassVar = True

    start: float = number()
    to: float = number(argument="end")
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, start: float, to: float, length: float) -> float:
        share = t / length
        return start * (1 - share) + to * share


@shape("warmup")
@dataclass(frozen=True, repr=False)
class Warmup(Shape):
    """A straight line up to 1: f(t) = start + (1 - start) t / length.

    Goyal et al. 2017, "Accurate, large minibatch SGD" (arXiv:1706.02677), section 2.2.

    >>> import surefoot as sf
    >>> [sf.schedule.warmup(5)(t) for t in (0, 1, 5)]
    [0.0, 0.2, 1.0]
    """

    stretches: ClassVar = True

    length: Time | None = time(None)
    start: float = number(0)

    @staticmethod
    def value(t: float, start: float, length: float) -> float:
        share = t / length
        return start * (1 - share) + share


@shape("cosine")
@dataclass(frozen=True, repr=False)
class Cosine(Shape):
    """Half a cosine from 1 down to `floor`: f(t) = floor + (1 - floor) (1 + cos(pi t / length)) / 2.

    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts" (arXiv:1608.03983), eq. 5, without
    the restarts. Past its length it holds the floor, where torch's CosineAnnealingLR rises again.

    >>> import surefoot as sf
    >>> [sf.schedule.cosine(10, floor=0.1)(t) for t in (0, 10, 20)]
    [1.0, 0.1, 0.1]
    """

    stretches: ClassVar = True

    length: Time | None = time(None)
    low: float = number(0, argument="floor")

    @staticmethod
    def value(t: float, low: float, length: float) -> float:
        return low + (1 - low) * (1 + math.cos(math.pi * t / length)) / 2


@shape("polynomial")
@dataclass(frozen=True, repr=False)
class Polynomial(Shape):
    """f(t) = floor + (1 - floor) (1 - t / length) ^ power, as torch's PolynomialLR.

    >>> import surefoot as sf
    >>> sf.schedule.polynomial(10, power=2)(5)
    0.25
    """

    stretches: ClassVar = True

    length: Time | None = time(None)
    power: float = number(1)
    low: float = number(0, argument="floor")

    @staticmethod
    def value(t: float, power: float, low: float, length: float) -> float:
        return low + (1 - low) * (1 - t / length) ** power


@shape("rex")
@dataclass(frozen=True, repr=False)
class Rex(Shape):
    """Slow at first, fast at the end: f(t) = 2 (1 - z) / (2 - z), z = t / length.

    Chen, Wolfe & Kyrillidis 2022, "REX: revisiting budgeted training with an improved schedule" (arXiv:2107.04197),
    section 3.

    >>> import surefoot as sf
    >>> round(sf.schedule.rex(10)(5), 4)
    0.6667
    """

    stretches: ClassVar = True

    length: Time | None = time(None)

    @staticmethod
    def value(t: float, length: float) -> float:
        return 2 * (1 - t / length) / (2 - t / length)


@shape("inverse_sqrt")
@dataclass(frozen=True, repr=False)
class InverseSqrt(Shape):
    """f(t) = sqrt(timescale / (timescale + t)).

    So `warmup(4000) >> inverse_sqrt(4000)` is the schedule of Vaswani et al. 2017 (arXiv:1706.03762), eq. 3, with its
    highest rate as the base.

    >>> import surefoot as sf
    >>> sf.schedule.inverse_sqrt(100)(300)
    0.5
    """

    timescale: Time = time()
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, timescale: float) -> float:
        return math.sqrt(timescale / (timescale + t))


@shape("power")
@dataclass(frozen=True, repr=False)
class Power(Shape):
    """A power law: f(t) = (1 + t / timescale) ^ -exponent; with exponent 1/2 it is `inverse_sqrt`.

    The exponent is that of Shen et al. 2024, "Power scheduler: a batch size and token number agnostic learning rate
    scheduler" (arXiv:2408.13359), eq. 4.

    >>> import surefoot as sf
    >>> sf.schedule.power(100, exponent=1)(300)
    0.25
    """

    timescale: Time = time()
    exponent: float = number(0.51)
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, timescale: float, exponent: float) -> float:
        return (1 + t / timescale) ** -exponent
