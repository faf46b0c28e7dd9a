"""Sound trainings that look odd, by an author who has seen no detector: only to measure false alarms by."""

from benchmarks.diagnose.healthy.outside import (
    floors,
    images,
    imbalance,
    optimizers,
    pairs,
    plateaus,
    schedules,
    sequences,
    tuning,
    wiring,
)

__all__ = [
    "floors",
    "images",
    "imbalance",
    "optimizers",
    "pairs",
    "plateaus",
    "schedules",
    "sequences",
    "tuning",
    "wiring",
]
