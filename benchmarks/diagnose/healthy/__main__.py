"""Prove that the healthy programs are healthy.

    python -m benchmarks.diagnose.healthy [--check] [NAME ...] [--part building] [--seeds 5] [--remedy-seeds 3] [-n 1]

NAME is a program or a family. Without --check, they are listed. A program is sound if it gets below its base rate on
every seed, if its validation loss has not turned, and if no simple remedy gains 20 % of its final loss.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from functools import partial

from benchmarks.diagnose.healthy import HEALTHY
from benchmarks.diagnose.healthy.check import Verdict, alone, by_name


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--check", action="store_true")
    options.add_argument("--part", choices=["building", "measuring", "outside", "outside2"])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--remedy-seeds", type=int, default=3)
    options.add_argument("-n", type=int, default=1, help="processes")
    args = options.parse_args()
    if unknown := set(args.names) - set(HEALTHY) - {h.family for h in HEALTHY.values()}:
        options.error(f"no healthy program or family is called {', '.join(sorted(unknown))}")
    chosen = [h for h in HEALTHY.values() if not args.names or h.name in args.names or h.family in args.names]
    chosen = [h for h in chosen if args.part in (None, h.part)]
    if not args.check:
        for h in chosen:
            print(f"{h.part:10} {h.family:22} {h.name}")
        print(f"{len(chosen)} programs in {len({h.family for h in chosen})} families")
        return 0
    print("| program | family | first | last | base | learnt | turned | gain | by | s | sound |\n" + "|---" * 11 + "|")
    unsound = 0
    with multiprocessing.get_context("spawn").Pool(args.n, alone) as pool:
        work = partial(by_name, seeds=args.seeds, remedy_seeds=min(args.seeds, args.remedy_seeds))
        for verdict in pool.imap(work, [h.name for h in chosen]):
            unsound += not verdict.sound
            print(_row(verdict), flush=True)
    print(f"{len(chosen) - unsound} of {len(chosen)} are sound")
    return int(unsound > 0)


def _row(v: Verdict) -> str:
    numbers = f"{v.first:.4g} | {v.last:.4g} | {v.base:.4g} | {v.learnt:.0%} | {v.turned:.2f} | {v.gain:.0%}"
    return f"| {v.name} | {v.family} | {numbers} | {v.remedy} | {v.seconds:.2f} | {'yes' if v.sound else 'NO'} |"


if __name__ == "__main__":
    sys.exit(main())
