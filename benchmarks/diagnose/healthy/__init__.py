"""Sound trainings that look odd. A watch that warns of one of them raises a false alarm.

    python -m benchmarks.diagnose.healthy --check [NAME ...] --seeds 5 -n 1

Each is a function `program(watch, seed)` that seeds torch, trains, and calls `watch(model, optimizer, ...)` as a user
calls `sf.watch`. One part of the families is for building detectors, another only for measuring them, and the third is
by somebody who had seen the words of DESIGN.md and none of the detectors.
"""

from benchmarks.diagnose.healthy import building, measuring, outside, outside2
from benchmarks.diagnose.healthy.registry import HEALTHY, Healthy, Outcome, healthy

__all__ = ["HEALTHY", "Healthy", "Outcome", "building", "healthy", "measuring", "outside", "outside2"]
