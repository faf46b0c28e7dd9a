"""Pieces that go up and down: cycles, restarts, warm-up and cool-down in one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from surefoot.errors import UserError
from surefoot.schedule.shape import LARGEST, Shape, choice, number, raised, shape, time
from surefoot.schedule.times import Duration, Time


@shape("cosine_restarts")
@dataclass(frozen=True, repr=False)
class CosineRestarts(Shape):
    """Half cosines one after the other, each `stretch` times as long and `height` times as high as the one before.

        f(t) = floor + (height^i - floor) (1 + cos(pi s)) / 2       in cycle i, of which the share s is over

    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts" (arXiv:1608.03983), eq. 5 and
    section 3 (stretch is T_mult there); height as in timm. As torch's CosineAnnealingWarmRestarts.

    >>> import surefoot as sf
    >>> restarts = sf.schedule.cosine_restarts(10, stretch=2, height=0.5)
    >>> [round(restarts(t), 3) for t in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    first: Time = time()
    longer: float = number(1, argument="stretch", least=1)
    height: float = number(1)
    low: float = number(0, argument="floor")
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, first: float, longer: float, height: float, low: float) -> float:
        if longer == 1:
            i = t // first
            share = (t - i * first) / first
        else:  # cycles 0 to i - 1 take first * (longer^i - 1) / (longer - 1)
            i = max(math.floor(math.log(t / first * (longer - 1) + 1, longer)), 0)
            begin = first * (longer**i - 1) / (longer - 1)
            i += t >= begin + first * longer**i  # what the logarithm was off by
            i -= t < begin
            share = (t - first * (longer**i - 1) / (longer - 1)) / (first * longer**i)
        return low + (max(raised(height, i), low) - low) * (1 + math.cos(math.pi * min(max(share, 0), 1))) / 2


@shape("one_cycle")
@dataclass(frozen=True, repr=False)
class OneCycle(Shape):
    """Up to the base rate and down to next to nothing: from `start` to `peak` in `rise` of the length, then to `end`.

    With phases=3 it goes back to `start` as fast as it came, and then to `end`. curve: "cosine" or "linear". For
    momentum, which goes the other way: `one_cycle(n, start=1, peak=0.85 / 0.95, end=1)`.

    Smith & Topin 2017, "Super-convergence: very fast training of neural networks using large learning rates"
    (arXiv:1708.07120), section 4. As torch's OneCycleLR with its max_lr as the base rate; that ends with its last step,
    so its total_steps=100 is length=99 here.

    >>> import surefoot as sf
    >>> cycle = sf.schedule.one_cycle(100, start=0.1)
    >>> [round(cycle(t), 4) for t in (0, 30, 65, 100)]
    [0.1, 1.0, 0.5, 0.0]
    """

    stretches: ClassVar = True

    length: Time | None = time(None)
    start: float = number(0.04)
    peak: float = number(1)
    to: float = number(4e-6, argument="end")
    rise: float = number(0.3)
    curve: str = choice("cosine", "linear")
    phases: int = number(2)

    def _check(self) -> None:
        if self.phases not in (2, 3) or not 0 <= self.rise <= (1 if self.phases == 2 else 0.5):
            raise UserError(
                f"one_cycle: rise={self.rise}, phases={self.phases}: 2 phases with a rise up to 1, 3 up to 0.5"
            )

    @staticmethod
    def value(
        t: float, start: float, peak: float, to: float, rise: float, curve: str, phases: int, length: float
    ) -> float:
        up = length * rise
        points = [(0, start), (up, peak), (length, to)]
        if phases == 3:
            points.insert(2, (min(2 * up, length), start))
        for (begin, a), (end, b) in zip(points, points[1:]):  # noqa: B905, RUF007 - no more than `math` is to be needed
            if t < end:
                share = (t - begin) / (end - begin)
                return a + (b - a) * ((1 - math.cos(math.pi * share)) / 2 if curve == "cosine" else share)
        return float(to)


@shape("cyclic")
@dataclass(frozen=True, repr=False)
class Cyclic(Shape):
    """Up and down between `low` and `high` in straight lines, for ever; the height changes from cycle to cycle.

        f(t) = low + (high - low) x scale

    x goes from 0 to 1 in `up` and back in `down` (as long, if it is not given). scale is 1 ("triangular"), 1 / 2^i in
    cycle i ("triangular2") or gamma^t ("exp_range").

    Smith 2017, "Cyclical learning rates for training neural networks" (arXiv:1506.01186), section 3. As torch's
    CyclicLR.

    >>> import surefoot as sf
    >>> cycle = sf.schedule.cyclic(10, low=0.2, mode="triangular2")
    >>> [round(cycle(t), 3) for t in (0, 10, 20, 30)]
    [0.2, 1.0, 0.2, 0.6]
    """

    up: Time = time()
    down: Time | None = time(None)
    low: float = number(0.1)
    high: float = number(1)
    mode: str = choice("triangular", "triangular2", "exp_range")
    gamma: float = number(1)
    length: Time | None = time(None)

    @staticmethod
    def value(t: float, up: float, down: float | None, low: float, high: float, mode: str, gamma: float) -> float:
        period = up + (up if down is None else down)
        i = t // period
        at = t - i * period
        x = at / up if at <= up else max((period - at) / (period - up), 0)
        scale = {"triangular": 1.0, "triangular2": raised(0.5, i), "exp_range": raised(gamma, t)}[mode]
        return max(low + (high - low) * min(x * scale, LARGEST), 0.0)


@shape("wsd")
@dataclass(frozen=True, repr=False)
class WarmupStableDecay(Shape):
    """Warm-up from 0, the base rate, and at the end of the run a cool-down to `floor`.

        f = 1 - (1 - floor) z                       curve="linear"
        f = 1 - (1 - floor) (1 - cos(pi z)) / 2     curve="cosine"
        f = 1 - (1 - floor) sqrt(z)                 curve="sqrt": 1-sqrt

    where z is the share of the cool-down that is over. Hu et al. 2024, "MiniCPM" (arXiv:2404.06395), section 4.2;
    curves: Haegele et al. 2024 (arXiv:2405.18392), section 3, where 1-sqrt does best.

    >>> import surefoot as sf
    >>> wsd = sf.schedule.wsd(warmup=5, cooldown=20, length=100)
    >>> [wsd(t) for t in (0, 5, 80, 85, 100)]
    [0.0, 1.0, 1.0, 0.5, 0.0]
    """

    stretches: ClassVar = True

    warmup: Time = time(Duration(5, "%"), zero=True)
    cooldown: Time = time(Duration(20, "%"), zero=True)
    curve: str = choice("sqrt", "linear", "cosine")
    low: float = number(0, argument="floor")
    length: Time | None = time(None)

    def _check(self) -> None:
        told = self.warmup, self.cooldown, self.length
        warmup, cooldown, length = (x if isinstance(x, int | float) else None for x in told)
        if None not in (warmup, cooldown, length) and warmup + cooldown > length:  # pyright: ignore
            raise UserError(f"{self}: warm-up and cool-down are longer than the whole")

    @staticmethod
    def value(t: float, warmup: float, cooldown: float, curve: str, low: float, length: float) -> float:
        if t < warmup:
            return t / warmup
        z = max(t - (length - cooldown), 0) / cooldown if cooldown else 0.0
        gone = {"linear": z, "cosine": (1 - math.cos(math.pi * z)) / 2, "sqrt": math.sqrt(z)}[curve]
        return 1 - (1 - low) * gone
