"""Units and depth: what is dead, saturated, vanishing or exploding on the way through the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.reading import Reading
from surefoot.watch.layers import FIELDS

DEAD, SATURATED = 0.7, 0.5
DEEP = 8  # matrices, of which next to no gradient in the first ones explains that nothing is learnt
VANISHED, EXPLODED = 1e-3, 1e3


def dead_units(r: Reading) -> Iterator[Claim]:
    """Most units of a layer are zero for every item, and little is learnt."""
    bent, units = r.layer("bent"), r.layer("units")
    dead = {
        place: share for place, share in r.layer("dead").items() if bent[place] and units[place] > 2 and share > DEAD
    }
    if dead and r.steps >= 4 and r.now < 0.6:
        yield Claim(
            "dead-units", "warning", (Evidence("dead", max(dead.values()), DEAD),), tuple(dead), first(r, "dead", dead)
        )


def saturated_units(r: Reading) -> Iterator[Claim]:
    """Most units of a layer are at their limit for nearly every item, and little is learnt."""
    at_limit = {place: share for place, share in r.layer("saturated").items() if share > SATURATED}
    if at_limit and r.steps >= 4 and r.now < (0.8 if min(at_limit.values()) > 0.9 else 0.6):
        yield Claim(
            "saturated-units",
            "warning",
            (Evidence("saturated", max(at_limit.values()), SATURATED),),
            tuple(at_limit),
            first(r, "saturated", at_limit),
        )


def first(r: Reading, name: str, found: Mapping[str, float]) -> int:
    """The step before which one of the layers found was first looked at as it is now."""
    column, rows = FIELDS.index(name), [r.signals.layers.index(place) for place in found]
    limits = np.array(list(found.values())) / 2
    return next(
        (look.step - 1 for look in r.looks if len(look.layers) and bool((look.layers[rows, column] > limits).any())), 0
    )


def through_depth(r: Reading) -> Iterator[Claim]:
    """Gradients that shrink or grow from layer to layer."""
    if r.steps < 4 or len(r.matrices) < 4 or r.now > 0.5:
        return
    names = [name for name, matrix in zip(r.signals.names, r.matrices, strict=True) if matrix]
    share = r.depth
    if share < VANISHED or (share < 10 * VANISHED and len(r.matrices) >= DEEP and r.now < 0.05):
        yield Claim(
            "deep-vanishing",
            "critical",
            (Evidence("depth_ratio", share, VANISHED),),
            tuple(names[: max(1, len(names) // 4)]),
            symptom="vanishing-gradient",
        )
    elif share > EXPLODED:
        yield Claim(
            "deep-exploding",
            "critical",
            (Evidence("depth_ratio", share, EXPLODED),),
            tuple(names[: max(1, len(names) // 4)]),
            symptom="exploding-gradient",
        )


DETECTORS = (through_depth, dead_units, saturated_units)
