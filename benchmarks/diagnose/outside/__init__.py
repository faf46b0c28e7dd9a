"""The outside part: faulty programs by people who had seen the words of DESIGN.md and none of the detectors.

Each is a function `program(watch, seed, mended)` that seeds torch, trains, and calls `watch(model, optimizer, ...)` as
a user calls `sf.watch`. Whether a fault is real: `python -m benchmarks.diagnose.outside`.
"""

from benchmarks.diagnose.outside import (  # noqa: F401  # they register
    data,
    data_more,
    depth,
    head,
    head_labels,
    head_loss,
    length,
    optimizers,
    rates,
    regularised,
    scales,
    schedules,
    shapes,
    units,
    wiring,
    wiring_modes,
    wiring_steps,
)
from benchmarks.diagnose.outside.registry import FAULTY, Faulty, faulty

__all__ = ["FAULTY", "Faulty", "faulty"]
