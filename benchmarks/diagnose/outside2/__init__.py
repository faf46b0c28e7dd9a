"""A second set of faulty trainings by an author who knows the interface and the causes, and not the detectors."""

from benchmarks.diagnose.outside2 import (  # noqa: F401
    data,
    data_labels,
    fit,
    heads,
    limits,
    modes,
    rates,
    steps,
    units,
    wiring,
)
