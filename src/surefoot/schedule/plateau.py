"""Feedback: a factor that falls where a metric gets no better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any, ClassVar

from surefoot.errors import UserError
from surefoot.schedule.schedule import Function, Schedule
from surefoot.schedule.shape import Shape, choice, number, shape
from surefoot.schedule.shapes import Constant


@shape("plateau")
@dataclass(frozen=True, repr=False)
class Plateau(Shape):
    """A factor that is multiplied by `gamma` whenever the metric has got no better for more than `patience` tellings.

    It is told the metric by `driver.step(metric=...)`, and multiplies with schedules of time: `cosine(90) * plateau()`.

    trigger="best", as torch's ReduceLROnPlateau: no telling was better than the best one by `threshold` (a share of the
    best with threshold_mode="rel", a difference with "abs").

    trigger="slope": the longest stretch up to now over which the metric may have got no better is longer than
    `patience`. Over a stretch of n tellings a straight line with normal noise is fitted; the metric has got better if
    its slope is so with a probability of `certain` or more. The tenth of all tellings that is worst is left out, so
    that spikes do no harm. It does not ask how large noise is, so for losses of single batches it is the better one;
    with patience of some hundreds then.

    A metric of NaN or infinity is no better than any.

    Args:
        gamma: what the factor is multiplied by
        patience: tellings without progress that are borne
        threshold, threshold_mode: what is progress, with trigger="best"
        cooldown: tellings after a fall that are not counted
        mode: "min" for losses, "max" for accuracies
        least: the factor never falls below it
        trigger: "best" or "slope"
        certain: how probable progress must be, with trigger="slope"

    Source: slope: King 2018, "Automatic learning rate scheduling that really works" (blog.dlib.net), as in dlib's
    `count_steps_without_decrease_robust`.

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    >>> sched = sf.schedule.drive(opt, lr=sf.schedule.plateau(0.1, patience=1))
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     opt.step()
    ...     sched.step(metric=loss)
    >>> opt.param_groups[0]["lr"]
    0.1
    """

    gamma: float = number(0.1)
    patience: int = number(10)
    threshold: float = number(1e-4)
    threshold_mode: str = choice("rel", "abs")
    cooldown: int = number(0)
    mode: str = choice("min", "max")
    least: float = number(0)
    trigger: str = choice("best", "slope")
    certain: float = number(0.51)

    length: ClassVar = None  # it has no end

    def _check(self) -> None:
        if self.gamma >= 1:
            raise UserError(f"plateau: gamma={self.gamma!r} must be less than 1")
        for name in ("patience", "cooldown"):
            if getattr(self, name) != int(getattr(self, name)):
                raise UserError(f"plateau: {name}={getattr(self, name)!r} must be a whole number")
        if not 0.5 < self.certain < 1:
            raise UserError(f"plateau: certain={self.certain!r} must be above 0.5 and below 1")

    @property
    def incomplete(self) -> bool:
        return False

    @property
    def feedback(self) -> tuple[Plateau, ...]:
        return (self,)

    def settled(self, factors: Iterator[float]) -> Schedule:
        return Constant(next(factors))

    def over(self, total: float) -> Plateau:
        return self

    def function(self) -> Function:
        raise UserError(f"{self} is no function of time: it falls as the metric tells. Let a driver ask it")


@dataclass
class Memory:
    """What a plateau has been told.

    factor: its value now
    best: the best metric; bad: tellings since it
    wait: tellings that are still not counted
    told: with trigger="slope", the metrics since the last fall, of which no more are kept than are needed
    """

    factor: float = 1.0
    best: float | None = None
    bad: int = 0
    wait: int = 0
    told: list[float] = field(default_factory=list[float])

    def tell(self, plateau: Plateau, metric: float) -> None:
        """Take in a metric."""
        value = -metric if plateau.mode == "max" else metric
        value = value if math.isfinite(value) else math.inf
        waiting = self.wait > 0
        self.wait = max(self.wait - 1, 0)
        if plateau.trigger == "best":
            better = self._better(plateau, value)
            self.best = value if better else self.best
            self.bad = 0 if better or waiting else self.bad + 1
            stuck = self.bad > plateau.patience
        else:
            if not waiting and value < math.inf:
                self.told = [*self.told, value][-3 * int(plateau.patience) - 20 :]
            stuck = without_progress(self.told, plateau.certain) > plateau.patience
        if stuck:
            self.factor = max(self.factor * plateau.gamma, min(plateau.least, self.factor))
            self.bad, self.wait, self.told = 0, int(plateau.cooldown), []

    def _better(self, plateau: Plateau, value: float) -> bool:
        if value == math.inf:
            return False
        if self.best is None:
            return True
        margin = plateau.threshold * (abs(self.best) if plateau.threshold_mode == "rel" else 1)
        return value < self.best - margin

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Memory:
        """What `state_dict` returned."""
        names = {f.name for f in fields(cls)}
        if set(state) != names or not isinstance(state["factor"], Real):
            raise UserError(f"this is no state of a plateau: it holds {', '.join(sorted(state)) or 'nothing'}")
        values: dict[str, Any] = {**state, "told": list(state["told"])}
        return cls(**values)


def as_number(metric: Any) -> float:
    """A metric as a number.

    Raises:
        UserError: where it is none
    """
    try:
        return float(metric)
    except (TypeError, ValueError, RuntimeError):  # of a tensor with several elements
        raise UserError(f"step(metric=...): {metric!r} is no number") from None


def without_progress(metrics: list[float], certain: float) -> int:
    """Over how many of the last metrics, at most, they may not have fallen."""
    if len(metrics) < 3:
        return 0
    ordered = sorted(metrics)
    limit, middle = ordered[math.ceil(0.9 * len(metrics)) - 1], ordered[len(metrics) // 2]
    count = n = 0
    x1 = x2 = y1 = y2 = xy = 0.0
    for x, metric in enumerate(reversed(metrics)):  # back in time, so that progress is a rise
        if metric <= limit:
            y = metric - middle  # sums of large numbers would lose what they differ by
            n, x1, x2, y1, y2, xy = n + 1, x1 + x, x2 + x * x, y1 + y, y2 + y * y, xy + x * y
        if n > 2 and _probability_of_rise(n, x1, x2, y1, y2, xy) < certain:
            count = x + 1
    return count


def _probability_of_rise(n: int, x1: float, x2: float, y1: float, y2: float, xy: float) -> float:
    """How probable it is that the slope of the line through n points is above zero, from sums over them."""
    spread = x2 - x1 * x1 / n
    slope = (xy - x1 * y1 / n) / spread
    rest = max(y2 - y1 * y1 / n - slope * slope * spread, 0.0)
    error = math.sqrt(rest / (n - 2) / spread)
    if error <= 1e-12 * abs(slope):
        return float(slope > 0) if slope else 0.5
    return 0.5 * (1 + math.erf(slope / error / math.sqrt(2)))
