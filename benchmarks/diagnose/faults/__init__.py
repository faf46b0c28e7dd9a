"""Faulty trainings of all causes over all families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.diagnose.families import FAMILIES
from benchmarks.diagnose.program import Setting, sound

CONSTRUCTED = {
    "lr-zero", "grad-not-cleared", "no-gradient", "not-in-optimizer", "frozen-in-optimizer", "step-without-effect",
    "scaled-clip", "eval-mode", "train-mode", "output-activation", "output-range", "loss-mismatch", "shape-broadcast",
    "non-finite-input", "labels-constant", "train-val-mismatch", "data-order", "data-unlearnable", "bad-batch",
    "init-symmetric", "sign-flipped", "not-stepped", "loss-scale", "input-bound", "class-imbalance",
}  # fmt: skip
"""Faults of wiring and data: their cause is right by construction."""


@dataclass(frozen=True)
class Fault:
    """One faulty training. cause: what it was made by."""

    name: str
    cause: str
    program: Setting

    @property
    def part(self) -> str:
        return FAMILIES[self.program.family].part


FAULTS: dict[str, Fault] = {}
STYLES = ("module", "function", "late-clear", "accumulate", "ours", "autocast")


def faulty(
    name: str, cause: str, families: str, change: Callable[[Setting], dict[str, Any]] | dict[str, Any], **base: Any
) -> None:
    """Register a fault for several families, each in another style of loop."""
    from dataclasses import replace

    for family in families.split():
        style = STYLES[len(FAULTS) % len(STYLES)]
        start = sound(family, **{"style": style, **base})
        made = replace(start, **(change(start) if callable(change) else change))
        key = f"{name}/{family}"
        assert key not in FAULTS, key
        FAULTS[key] = Fault(key, cause, made)


from benchmarks.diagnose.faults import data, rates, shapes, wiring  # noqa: E402, F401  # they register
