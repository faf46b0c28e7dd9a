"""What a probe has found: each trial, what it gains over going on as it is, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from unicodedata import east_asian_width

from surefoot.diagnose.knowledge import LANGUAGES
from surefoot.errors import unknown

LEAST = 0.05  # of the level of the loss: less is not worth a word
SHARE = 0.2  # of the whole fall that a trial makes: what it must add to that which comes without it
BAD = 3.0  # levels
TWICE = 0.5  # the same for causes that only make a sound descent slower


@dataclass(frozen=True)
class Start:
    """What trials begin from.

    loss: the mean loss over the batches; level: what losses are compared to
    fresh: whether the weights were drawn anew
    """

    loss: float
    level: float
    fresh: bool = False


@dataclass(frozen=True)
class Trial:
    """Some steps with one thing changed.

    name: what was changed: a signal's name is "gain_" and this
    change: the same as a change of the recipe, as of a remedy
    causes: what it speaks for if it helps
    start: what it began from
    base: the mean loss over the batches afterwards without the change, for each order; after: that with the change
    rate: what the rate was multiplied by
    """

    name: str
    change: Mapping[str, Any]
    causes: tuple[str, ...]
    start: Start
    base: tuple[float, ...]
    after: tuple[float, ...]
    rate: float = 1.0

    @property
    def loss(self) -> float:
        """The loss afterwards."""
        return fmean(self.after)

    @property
    def gains(self) -> tuple[float, ...]:
        """By how much lower the loss ends than without the change, as a share of its level, for each order."""
        return tuple(
            (self._size(b) - self._size(a)) / self.start.level for b, a in zip(self.base, self.after, strict=True)
        )

    @property
    def gain(self) -> float:
        """The same in the mean."""
        return fmean(self.gains)

    @property
    def noise(self) -> float:
        """How far the gains lie apart."""
        return max(self.gains) - min(self.gains)

    @property
    def fall(self) -> float:
        """How far the loss falls, as a share of its level."""
        return (self._size(self.start.loss) - fmean(map(self._size, self.after))) / self.start.level

    @property
    def sure(self) -> bool:
        """Whether the gain is beyond noise, and worth a word."""
        slower = {"lr-too-low", "optimizer-unsuited"} & set(self.causes)
        share = (TWICE if slower else SHARE) * max(self.fall, 0.0)
        return self.gain > max(self.noise, LEAST, share)

    def _size(self, loss: float) -> float:
        return squashed(loss, self.start.loss, self.start.level)

    def words(self, language: str = "en") -> str:
        """What was changed, in words."""
        texts = dict(zip(LANGUAGES, WORDS[self.name], strict=True))
        if language not in texts:
            raise unknown("language", language, LANGUAGES)
        numbers = {"rate": f"{self.rate:g}", "down": f"{1 / self.rate:g}"}
        words = texts[language].format(**{**numbers, **self.change})
        return words + FRESH[language] if self.start.fresh else words


def squashed(loss: float, before: float, level: float) -> float:
    """A loss; beyond some levels, where it is bad in any case, its logarithm, and not more than tenfold.

    >>> squashed(2.0, 1.0, 1.0), squashed(float("inf"), 1.0, 1.0) == squashed(30.0, 1.0, 1.0)
    (2.0, True)
    """
    bad = BAD * level
    loss = min(loss, 10 * max(before, bad))
    return loss if loss <= bad else bad * (1 + math.log(loss / bad))


@dataclass(frozen=True)
class Probe:
    """What a probe has found.

    steps: how many each trial took; batches: on how many
    before: the mean loss over them before
    trials: the first changes nothing; empty where the loss is no finite number
    """

    steps: int
    batches: int
    before: float
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The trial that gains most, if any surely does."""
        return max((t for t in self.trials if t.sure), key=lambda t: t.gain, default=None)

    @property
    def falls(self) -> bool:
        """Whether the loss falls as it is, beyond the noise of the order of batches."""
        if not self.trials:
            return False
        same = self.trials[0]
        return same.fall > max(LEAST, (max(same.after) - min(same.after)) / same.start.level)

    def of(self, cause: str) -> Trial | None:
        """The trial that speaks most for a cause; None where none was made."""
        return max((t for t in self.trials if cause in t.causes), key=lambda t: (t.sure, t.gain), default=None)

    def text(self, language: str = "en") -> str:
        """A table of the trials, the best first, for the terminal."""
        if language not in LANGUAGES:
            raise unknown("language", language, LANGUAGES)
        head, none, columns = TABLE[language]
        if not self.trials:
            return none.format(self.before)
        rows = [columns]
        for t in sorted(self.trials, key=lambda t: (-t.gain, t is not self.trials[0])):
            gain = "" if t is self.trials[0] else f"{t.gain:+.0%} ± {t.noise:.0%}"
            rows.append((t.words(language), f"{t.loss:.4g}", gain, ", ".join(t.causes) if t.sure else ""))
        widths = [max(map(wide, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell + " " * (width - wide(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        title = head.format(steps=self.steps, batches=self.batches, loss=self.before)
        return "\n".join([title, *(f"  {line}" for line in lines)])

    def __repr__(self) -> str:
        best = self.best
        found = "nothing gains surely" if best is None else f"{best.words()} gains {best.gain:.0%} ± {best.noise:.0%}"
        found = found if math.isfinite(self.before) else "nothing could be tried"
        return f"Probe({self.steps} steps from a loss of {self.before:.4g}: {found})"


def wide(text: str) -> int:
    """How many columns of a terminal a text takes.

    >>> wide("ab损失")
    6
    """
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


WORDS = {
    "as-it-is": ("as it is", "维持现状"),
    "rate-up": ("rate x {rate}", "学习率乘以 {rate}"),
    "rate-down": ("rate / {down}", "学习率除以 {down}"),
    "unclipped": ("no clipping", "不裁剪梯度"),
    "clipped": ("clipped at norm {clip_norm:g}", "按范数 {clip_norm:g} 裁剪"),
    "scaled": ("inputs standardised", "输入标准化"),
    "fresh": ("weights drawn anew", "重新初始化权重"),
    "optimizer": ("{optimizer} at {lr:g}", "改用 {optimizer}，学习率 {lr:g}"),
}
FRESH = {"en": ", from weights drawn anew", "zh": "（从重新初始化的权重开始）"}
TABLE = {
    "en": (
        "probe: {steps} steps, batches tried on: {batches}, from a loss of {loss:.4g}",
        "probe: the loss is {} at these weights: nothing can be tried from here",
        ("trial", "loss after", "gain", "speaks for"),
    ),
    "zh": (
        "探测实验：在 {batches} 个批次上走 {steps} 步，起始损失 {loss:.4g}",
        "探测实验：当前权重下损失为 {}，无法从此处尝试",
        ("实验", "之后的损失", "增益", "支持的原因"),
    ),
}
