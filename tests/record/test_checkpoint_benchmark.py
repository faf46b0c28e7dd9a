"""The benchmark of saving runs (its times are judged by people)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "checkpoint.py"


@pytest.mark.slow
def test_the_benchmark_prints_its_table():
    command = [sys.executable, str(SCRIPT), "--parameters", "1000000", "--rounds", "2"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len([line for line in out.splitlines() if line.startswith("| ")]) == 1 + 6
    share = float(out.splitlines()[-1].rpartition(" ")[2])
    assert 1 < share < 1.01
