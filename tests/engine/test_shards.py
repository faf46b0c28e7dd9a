"""Parameters sharded among two processes go the way of whole ones: every option, in lanes, bit for bit where no order
of sums matters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

from sharding import CASES

PROGRAM = Path(__file__).parent / "sharding.py"
# what depends on the norm or the sum of elements of several processes
SUMMED = [
    "clip_norm",
    "per group",
    "inf norm",
    "function",
    "skip",
    "cautious",
    "hybrid, 1 x n",
    "checkpoint",
    "quiet",
    "changes",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What one process found in every case, and what each of two."""
    folder = tmp_path_factory.mktemp("shards")
    runs = [(0, 1), (0, 2), (1, 2)]
    started = [subprocess.Popen([sys.executable, str(PROGRAM), *map(str, run), str(folder)]) for run in runs]
    assert [each.wait(timeout=200) for each in started] == [0, 0, 0]
    return [torch.load(folder / f"{world}-{rank}.pt") for rank, world in runs]


@pytest.mark.parametrize("case", CASES)
def test_shards_go_the_way_of_whole_tensors(found, case):
    one, first, second = (each[case] for each in found)
    exact = not any(case.startswith(name) for name in SUMMED)
    for a, b, c in zip(*(each[0] + each[1] for each in (one, first, second)), strict=True):
        assert (a is None) == (b is None) == (c is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6, equal_nan=True)
            assert torch.equal(b.nan_to_num(), c.nan_to_num())
    assert first[2] == pytest.approx(second[2], rel=0, abs=0, nan_ok=True)
    assert first[2] == pytest.approx(one[2], rel=1e-5, nan_ok=True)
