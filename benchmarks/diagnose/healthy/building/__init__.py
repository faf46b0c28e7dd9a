"""Programs that detectors may be built by."""

from benchmarks.diagnose.healthy.building import (
    deep,
    digits_auto,
    digits_cnn,
    digits_mlp,
    loops,
    regression,
    sequences,
    tables,
    topics,
)

__all__ = ["deep", "digits_auto", "digits_cnn", "digits_mlp", "loops", "regression", "sequences", "tables", "topics"]
