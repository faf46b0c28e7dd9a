"""Runs both suites through sf.watch and prints what was found.

python -m benchmarks.diagnose.measure [--part building|measuring] [--seeds 5] [--first 0] [-n 2] [--only NAME ...]
                                      [--suite faults|healthy] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surefoot as sf
from benchmarks.diagnose.accepted import FILE
from benchmarks.diagnose.faults import FAULTS
from benchmarks.diagnose.healthy import HEALTHY
from benchmarks.diagnose.program import run

RESAMPLES = 4000
SOON = 0.2  # of the training


def one(job: tuple[str, str, int]) -> dict[str, Any]:
    """One run of a suite, watched."""
    suite, name, seed = job
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    if suite == "faults":
        fault = FAULTS[name]
        told: dict[str, int] = {}
        try:
            outcome = run(fault.program, seed)
            findings, told = outcome.findings, outcome.told
        except (RuntimeError, ValueError, IndexError) as error:  # torch itself refuses the program
            return {"suite": suite, "name": name, "seed": seed, "refused": repr(error)[:200]}
        extra = {"told": told, "steps": fault.program.steps}
    else:
        made: list[Any] = []

        def watch(model: Any, optimizer: Any, **given: Any) -> Any:
            made.append(sf.watch(model, optimizer, **{**given, "quiet": True}))
            return made[-1]

        HEALTHY[name].function(watch, seed)
        for each in made:
            each.close()
        findings, extra = [f for each in made for f in each.findings], {}
    rows = [
        {"cause": f.cause, "symptom": f.symptom, "severity": f.severity, "first_step": f.first_step} for f in findings
    ]
    return {
        "suite": suite,
        "name": name,
        "seed": seed,
        "findings": rows,
        "seconds": time.perf_counter() - began,
        **extra,
    }


def scored(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of faults with what was right of them; those that cost nothing, or that torch refuses, are left out."""
    accepted = json.loads(FILE.read_text())
    found: list[dict[str, Any]] = []
    for row in rows:
        right = accepted.get(row["name"])
        if right is None or not right["causes"] or "refused" in row:
            continue
        causes = [f["cause"] for f in row["findings"]]
        first = [step for cause, step in row["told"].items() if cause in right["causes"]]
        found.append(
            {
                "name": row["name"],
                "family": row["name"].partition("/")[2],
                "cause": FAULTS[row["name"]].cause,
                "among": any(c in right["causes"] for c in causes),
                "first": causes[:1] != [] and causes[0] in right["causes"],
                "symptom": bool(row["findings"]) and row["findings"][0]["symptom"] in right["symptoms"],
                "soon": bool(first) and min(first) <= SOON * row["steps"],
            }
        )
    return found


def interval(rows: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> tuple[float, float, float]:
    """A mean and its 95 % interval by resampling families."""
    families: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(value(row))
    if not families:
        return math.nan, math.nan, math.nan
    sums = np.array([(sum(v), len(v)) for v in families.values()], float)
    drawn = sums[np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high)


def table(part: str, rows: Sequence[dict[str, Any]]) -> None:
    faults = scored([row for row in rows if row["suite"] == "faults"])
    print(f"\n{part} part, faults: {len(faults)} runs of {len({r['name'] for r in faults})} programs")
    dynamics = [r for r in faults if r["cause"] in DYNAMICS]
    for label, of, key in (
        ("right cause among the findings", faults, "among"),
        ("right cause first", faults, "first"),
        ("symptom right", faults, "symptom"),
        ("dynamics: told within 20 % of the steps", dynamics, "soon"),
    ):
        mean, low, high = interval(of, lambda r, key=key: r[key])
        print(f"  {label:40} {mean:6.1%}   [{low:.1%}, {high:.1%}]")
    healthy = [
        {
            "family": HEALTHY[r["name"]].family,
            "name": r["name"],
            "alarm": any(f["severity"] != "info" for f in r["findings"]),
            "causes": [f["cause"] for f in r["findings"] if f["severity"] != "info"],
        }
        for r in rows
        if r["suite"] == "healthy"
    ]
    mean, low, high = interval(healthy, lambda r: r["alarm"])
    alarmed = {r["family"] for r in healthy if r["alarm"]}
    print(f"{part} part, sound: {len(healthy)} runs of {len({r['name'] for r in healthy})} programs")
    print(f"  {'with a warning':40} {mean:6.1%}   [{low:.1%}, {high:.1%}], in {len(alarmed)} families")
    for row in healthy:
        if row["alarm"]:
            print(f"    {row['name']} ({row['family']}): {', '.join(row['causes'])}")
    by_cause: defaultdict[str, list[bool]] = defaultdict(list)
    for row in faults:
        by_cause[row["cause"]].append(row["among"])
    print("  by cause: " + ", ".join(f"{c} {sum(v)}/{len(v)}" for c, v in sorted(by_cause.items())))


DYNAMICS = {
    "lr-too-high",
    "lr-too-low",
    "no-warmup",
    "optimizer-unsuited",
    "clip-too-tight",
    "over-regularised",
    "batch-too-small",
    "init-too-large",
    "init-too-small",
    "dead-units",
    "saturated-units",
    "deep-vanishing",
    "deep-exploding",
    "data-unlearnable",
    "too-little-capacity",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("building", "measuring"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("-n", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--suite", choices=("faults", "healthy"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for part in [args.part] if args.part else ["building", "measuring"]:
        names = [("faults", n) for n, f in FAULTS.items() if f.part == part] + [
            ("healthy", n) for n, h in HEALTHY.items() if h.part == part
        ]
        seeds = range(args.first, args.first + args.seeds)
        names = [(s, n) for s, n in names if args.suite in (None, s) and (not args.only or n in args.only)]
        jobs = [(suite, n, seed) for suite, n in names for seed in seeds]
        with ProcessPoolExecutor(args.n, get_context("spawn")) as pool:
            rows = list(pool.map(one, jobs, chunksize=4))
        if args.json is not None:
            args.json.with_stem(f"{args.json.stem}-{part}").write_text("\n".join(json.dumps(row) for row in rows))
        table(part, rows)


if __name__ == "__main__":
    main()
