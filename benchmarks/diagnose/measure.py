"""Runs both suites through sf.watch and prints what was found.

python -m benchmarks.diagnose.measure [--part building|measuring|outside|outside2] [--seeds 5] [--first 0] [-n 2]
                                      [--only NAME ...] [--suite faults|healthy] [--json FILE]
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

import benchmarks.diagnose.outside2  # noqa: F401  # they register as well
import surefoot as sf
from benchmarks.diagnose.accepted import FILE
from benchmarks.diagnose.faults import FAULTS
from benchmarks.diagnose.healthy import HEALTHY
from benchmarks.diagnose.outside import FAULTY
from benchmarks.diagnose.program import run

ACCEPTED: dict[str, Any] = json.loads(FILE.read_text())
PARTS = ("building", "measuring", "outside", "outside2")
RESAMPLES = 4000
SOON = 0.2  # of the training


class Watches:
    """`sf.watch` for programs that call it themselves: keeps the watches, and the step at which each cause was told."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.told: dict[str, int] = {}

    def __call__(self, model: Any, optimizer: Any, **given: Any) -> Any:
        at = len(self.made)

        def tell(finding: Any) -> None:
            self.told.setdefault(finding.cause, self.made[at].step if at < len(self.made) else 0)

        self.made.append(sf.watch(model, optimizer, **{**given, "quiet": True, "on_finding": tell}))
        return self.made[-1]

    def findings(self) -> list[Any]:
        for each in self.made:
            each.close()
        return [finding for each in self.made for finding in each.findings]


def one(job: tuple[str, str, int]) -> dict[str, Any]:
    """One run of a suite, watched."""
    suite, name, seed = job
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began, watches = time.perf_counter(), Watches()
    try:
        if suite == "outside":
            FAULTY[name].function(watches, seed, False)
        elif suite == "mended":
            FAULTY[name].function(watches, seed, True)
        elif suite == "healthy":
            HEALTHY[name].function(watches, seed)
    except (RuntimeError, ValueError, IndexError) as error:  # torch itself refuses the program
        return {"suite": suite, "name": name, "seed": seed, "refused": repr(error)[:200]}
    if suite == "faults":
        try:
            outcome = run(FAULTS[name].program, seed)
        except (RuntimeError, ValueError, IndexError) as error:
            return {"suite": suite, "name": name, "seed": seed, "refused": repr(error)[:200]}
        findings, told, steps = outcome.findings, outcome.told, FAULTS[name].program.steps
    else:
        findings, told = watches.findings(), watches.told
        steps = max((each.step for each in watches.made), default=0)
    rows = [
        {"cause": f.cause, "symptom": f.symptom, "severity": f.severity, "first_step": f.first_step} for f in findings
    ]
    return {
        "suite": suite,
        "name": name,
        "seed": seed,
        "findings": rows,
        "told": told,
        "steps": steps,
        "seconds": time.perf_counter() - began,
    }


def right(row: dict[str, Any]) -> tuple[str, str, Sequence[str], Sequence[str]]:
    """Of a run of a fault its family, the cause that it was made by, the causes and the symptoms that are right."""
    if row["suite"] == "outside":
        fault = FAULTY[row["name"]]
        return fault.family, fault.causes[0], fault.causes, fault.symptoms
    accepted = ACCEPTED.get(row["name"], {"causes": (), "symptoms": ()})
    family = row["name"].partition("/")[2]
    return family, FAULTS[row["name"]].cause, accepted["causes"], accepted["symptoms"]


def scored(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of faults with what was right of them; those that cost nothing, or that torch refuses, are left out."""
    found: list[dict[str, Any]] = []
    for row in rows:
        family, cause, accepted, symptoms = right(row)
        if not accepted or "refused" in row:
            continue
        causes = [f["cause"] for f in row["findings"]]
        first = [step for told, step in row["told"].items() if told in accepted]
        found.append(
            {
                "name": row["name"],
                "family": family,
                "cause": cause,
                "among": any(c in accepted for c in causes),
                "first": causes[:1] != [] and causes[0] in accepted,
                "symptom": bool(row["findings"]) and row["findings"][0]["symptom"] in symptoms,
                "soon": bool(first) and min(first) <= SOON * row["steps"],
            }
        )
    return found


EXACT = {  # causes that one look tells: steps that must be taken before it can
    "not-in-optimizer": 0, "frozen-in-optimizer": 0, "output-activation": 1, "output-range": 1, "loss-mismatch": 1,
    "shape-broadcast": 1, "init-symmetric": 1, "loss-sum": 1, "input-unscaled": 2, "target-unscaled": 2,
    "grad-not-cleared": 2, "no-gradient": 3, "sign-flipped": 3, "eval-mode": 3, "lr-zero": 3,
}  # fmt: skip
OF_AN_EPOCH = {"labels-constant", "train-mode", "train-val-mismatch"}


def late(row: dict[str, Any]) -> tuple[str, float] | None:
    """The cause of a fault that an exact check finds, and how many steps after it was first to be seen it was told;
    None for all others."""
    fault = FAULTS.get(row["name"])
    if row["suite"] != "faults" or fault is None or "refused" in row or fault.program.factor is not None:
        return None
    if fault.cause in OF_AN_EPOCH:
        items = fault.program.items or len(fault.program.of.data(0)[0])
        visible = items // fault.program.batch
    elif fault.cause in EXACT:
        visible = EXACT[fault.cause]
    else:
        return None
    told = row["told"].get(fault.cause)
    return fault.cause, math.inf if told is None else max(0, told + 1 - visible)


def lateness(rows: Sequence[dict[str, Any]]) -> None:
    """How late exact checks are: the share of runs within three steps, and each cause's slowest run."""
    found = [each for row in rows if (each := late(row)) is not None]
    if found:
        worst = {cause: max(steps for name, steps in found if name == cause) for cause in sorted({c for c, _ in found})}
        soon = sum(steps <= 3 for _, steps in found) / len(found)
        print(f"  exact checks: {soon:.1%} of {len(found)} runs within 3 steps; at the latest: ", end="")
        print(", ".join(f"{cause} {steps:g}" for cause, steps in worst.items()))


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
    faults = scored([row for row in rows if row["suite"] in ("faults", "outside")])
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
    by_cause: defaultdict[str, list[bool]] = defaultdict(list)
    for row in faults:
        by_cause[row["cause"]].append(row["among"])
    print("  by cause: " + ", ".join(f"{c} {sum(v)}/{len(v)}" for c, v in sorted(by_cause.items())))
    lateness(rows)
    alarms(f"{part} part, sound", [row for row in rows if row["suite"] == "healthy"])
    mended = [row for row in rows if row["suite"] == "mended"]
    if mended:
        alarms(f"{part} part, faults that are mended", mended)


def alarms(label: str, rows: Sequence[dict[str, Any]]) -> None:
    """In how many trainings that are sound there was a warning, and which."""
    sound = [
        {
            "family": (HEALTHY if r["suite"] == "healthy" else FAULTY)[r["name"]].family,
            "name": r["name"],
            "causes": [f["cause"] for f in r.get("findings", ()) if f["severity"] != "info"],
        }
        for r in rows
    ]
    mean, low, high = interval(sound, lambda r: bool(r["causes"]))
    alarmed = {r["family"] for r in sound if r["causes"]}
    print(f"{label}: {len(sound)} runs of {len({r['name'] for r in sound})} programs")
    print(f"  {'with a warning':40} {mean:6.1%}   [{low:.1%}, {high:.1%}], in {len(alarmed)} families")
    for row in sound:
        if row["causes"]:
            print(f"    {row['name']} ({row['family']}): {', '.join(row['causes'])}")


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
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("-n", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--suite", choices=("faults", "healthy", "mended"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for part in [args.part] if args.part else PARTS:
        names = [("faults", n) for n, f in FAULTS.items() if f.part == part]
        names += [("healthy", n) for n, h in HEALTHY.items() if h.part == part]
        names += [(suite, n) for suite in ("outside", "mended") for n, f in FAULTY.items() if f.part == part]
        seeds = range(args.first, args.first + args.seeds)
        names = [
            (s, n)
            for s, n in names
            if args.suite in (None, s.replace("outside", "faults")) and (not args.only or n in args.only)
        ]
        jobs = [(suite, n, seed) for suite, n in names for seed in seeds]
        with ProcessPoolExecutor(args.n, get_context("spawn")) as pool:
            rows = list(pool.map(one, jobs, chunksize=4))
        if args.json is not None:
            args.json.with_stem(f"{args.json.stem}-{part}").write_text("\n".join(json.dumps(row) for row in rows))
        table(part, rows)


if __name__ == "__main__":
    main()
