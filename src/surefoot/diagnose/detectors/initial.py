"""Initial weights that are too large, too small or all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnose import symptom as seen
from surefoot.diagnose.base import blank_loss
from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.reading import FAR_OFF, Reading, median
from surefoot.watch.layers import FIELDS

EXPLODED = 100.0  # what activations may grow by from the first to the last layer
LARGE, SMALL = 4.0, 0.15  # of a weight's size times the root of its inputs, which is near 1 where variance is kept


def initial_scale(r: Reading) -> Iterator[Claim]:
    """Weights whose size times the root of their number of inputs is far from 1, and a training in trouble."""
    gains: dict[str, float] = r.facts.get("gains", {})
    if not gains or r.steps < 4:
        return
    large = {name: gain for name, gain in gains.items() if gain > LARGE}
    inner = list(gains.items())[:-1] or list(gains.items())
    small = {name: gain for name, gain in inner if gain < SMALL}
    high = r.start > 3 * r.reference if np.isfinite(r.reference) and r.reference > 0 else False
    if large and len(large) >= 0.3 * len(gains) and (high or r.now < 0.5 or r.counts.broken_losses):
        worst = max(large.values())
        yield Claim(
            "init-too-large",
            "warning",
            (Evidence("gain", worst, LARGE), Evidence("loss", r.start), Evidence("base_rate", r.base)),
            tuple(large),
        )
    growth = activations(r)
    if growth > EXPLODED and r.now < 0.5:
        yield Claim(
            "deep-exploding",
            "critical",
            (Evidence("activation_growth", growth, EXPLODED),),
            tuple(r.signals.layers[-2:]),
            symptom="" if seen.non_finite(r) else "exploding-gradient",
        )
    if small and len(small) >= 0.5 * len(inner) and r.steps >= 10 and early(r) < 0.1:
        yield Claim("init-too-small", "warning", (Evidence("gain", min(small.values()), SMALL),), tuple(small))


def activations(r: Reading) -> float:
    """How much larger what enters the last layers is than what enters the first, at the first look."""
    if not r.looks or len(r.looks[0].layers) < 5:
        return 1.0
    scales = r.looks[0].layers[:, FIELDS.index("scale")]
    scales = scales[~np.isnan(scales)]
    return float(scales[-1] / max(scales[0], 1e-12)) if len(scales) >= 5 else 1.0


def early(r: Reading) -> float:
    """The share of its way that the loss has come in the first third."""
    part = r.finite[: max(8, len(r.finite) // 3)]
    scale = abs(r.reference) or 1.0
    return float((r.reference - median(part[-5:])) / scale) if len(part) else 0.0


def far_outputs(r: Reading) -> Iterator[Claim]:
    """A first loss far above that of outputs of 0: the outputs are large before anything is learnt."""
    if r.steps >= 4 and r.far_off and "input-unscaled" not in r.facts:
        yield Claim(
            "init-too-large",
            "warning" if r.now < 0.5 else "info",
            (Evidence("loss_start", float(r.finite[0]), FAR_OFF * blank_loss(r.signals)), Evidence("loss", r.level)),
        )


def symmetric(r: Reading) -> Iterator[Claim]:
    """Units of a layer that are all the same."""
    same: list[str] = r.facts.get("symmetric", [])
    if same:
        yield Claim("init-symmetric", "critical", (Evidence("equal_units", 1.0),), tuple(same), certain=True)


DETECTORS = (symmetric, initial_scale, far_outputs)
