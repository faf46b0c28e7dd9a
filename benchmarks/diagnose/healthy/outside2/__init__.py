"""A second set of sound trainings that look odd, by somebody who had seen none of the detectors.

Tables and generators of sklearn, its digits, Python's own source, made series, comparisons, rewards and graphs.
"""

from benchmarks.diagnose.healthy.outside2 import (
    digits,
    measures,
    parts,
    planes,
    ranking,
    sequences,
    tables,
    turns,
)

__all__ = ["digits", "measures", "parts", "planes", "ranking", "sequences", "tables", "turns"]
