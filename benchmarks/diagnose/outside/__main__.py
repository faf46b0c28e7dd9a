"""Is each fault real? python -m benchmarks.diagnose.outside [NAME ...] [--seeds 5] [-n 1]

Runs each program with its fault and with the fault mended, unwatched, on the same seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import benchmarks.diagnose.outside2  # noqa: F401  # they register
from benchmarks.diagnose.healthy.check import NullWatch, alone
from benchmarks.diagnose.outside import FAULTY


def pair(job: tuple[str, int]) -> tuple[float, float, float]:
    """What a program comes to with its fault and without, and the seconds of the faulty one."""
    name, seed = job
    alone()
    began = time.perf_counter()
    bad = FAULTY[name].function(NullWatch, seed, False)
    seconds = time.perf_counter() - began
    return bad, FAULTY[name].function(NullWatch, seed, True), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-n", type=int, default=1)
    args = parser.parse_args()
    names = args.names or list(FAULTY)
    with ProcessPoolExecutor(args.n, get_context("spawn")) as pool:
        results = pool.map(pair, [(name, seed) for name in names for seed in range(args.seeds)])
        for name in names:
            bad, good, seconds = zip(*(next(results) for _ in range(args.seeds)), strict=True)
            better = sum(g < b for b, g in zip(bad, good, strict=True))
            print(
                f"{name:50} {FAULTY[name].causes[0]:20} faulty {statistics.median(bad):9.4g}  mended "
                f"{statistics.median(good):9.4g}  better on {better}/{args.seeds}  {statistics.median(seconds):.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
