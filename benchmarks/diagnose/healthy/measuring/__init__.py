"""Programs that only measure detectors."""

from benchmarks.diagnose.healthy.measuring import embedded, language, loops, losses, other, points, shapes, tabular

__all__ = ["embedded", "language", "loops", "losses", "other", "points", "shapes", "tabular"]
