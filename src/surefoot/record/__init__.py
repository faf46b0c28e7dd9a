"""A training on disk: its directory, its record of signals, its checkpoints."""

from surefoot.record.checkpoint import Checkpoint
from surefoot.record.recorder import Recorder
from surefoot.record.run import Run
from surefoot.record.weights import load_weights

__all__ = ["Checkpoint", "Recorder", "Run", "load_weights"]
