"""Which causes are right for each fault, and which symptoms: computed by paired runs, kept in accepted.json.

    python -m benchmarks.diagnose.accepted [NAME ...] [-n PROCESSES]

A cause is right if its standard remedy alone closes at least half of the gap to the family's sound training on at
least 4 of 5 seeds. Faults of wiring and data are right by construction; what else mends them is right as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.diagnose.faults import CONSTRUCTED, FAULTS, Fault
from benchmarks.diagnose.program import Outcome, Setting, run, sound
from benchmarks.diagnose.remedies import NEIGHBOURS, REMEDIES
from surefoot.compare.paired import closed, noise_floor

FILE = Path(__file__).with_name("accepted.json")
SEEDS = range(5)
HALF, ENOUGH = 0.5, 4


def key(fault: Fault) -> str:
    """A hash of what the fault's training is."""
    parts = [f"{f.name}={_named(getattr(fault.program, f.name))}" for f in fields(fault.program)]
    return hashlib.sha256("\n".join([fault.cause, *parts]).encode()).hexdigest()[:16]


def _named(value: Any) -> str:
    code = getattr(value, "__code__", None)
    if code is None:
        return getattr(value, "__qualname__", None) or repr(value)
    constants = [each for each in code.co_consts if isinstance(each, int | float | str | tuple)]
    return f"{value.__name__} {code.co_code.hex()} {constants}"


def outcome(s: Setting, seed: int) -> Outcome:
    """A run without a watch; one that torch itself refuses is as bad as can be."""
    torch.set_num_threads(1)
    try:
        return run(replace(s, wait=0.0), seed, watching=False)
    except (RuntimeError, ValueError, IndexError):
        return Outcome([math.nan], 1.0)


@cache
def errors(s: Setting) -> tuple[float, ...]:
    return tuple(outcome(s, seed).error for seed in SEEDS)


def judged(name: str) -> dict[str, Any]:
    """A fault's right causes and symptoms."""
    fault = FAULTS[name]
    s = fault.program
    reference = sound(s.family, style=s.style)
    outcomes, references = [outcome(s, seed) for seed in SEEDS], [outcome(reference, seed) for seed in SEEDS]
    bad, good = [o.error for o in outcomes], [o.error for o in references]
    floor = max(noise_floor(good), 0.01)
    causes = [fault.cause] if fault.cause in CONSTRUCTED else []
    tried: dict[str, list[float | None]] = {}
    for cause in dict.fromkeys([fault.cause, *NEIGHBOURS.get(fault.cause, ())]):
        shares = [closed(bad, errors(edit(s)), good, floor) for edit in REMEDIES.get(cause, ())]
        passed = [each for each in shares if sum(x is not None and x >= HALF for x in each) >= ENOUGH]
        if passed and cause not in causes:
            causes.append(cause)
        if shares:
            tried[cause] = max(shares, key=lambda each: sum(x is not None and x >= HALF for x in each))
    gap = float(np.mean(np.subtract(bad, good)))
    symptoms = sorted(
        {symptom for o, ref in zip(outcomes, references, strict=True) for symptom in symptoms_of(o, ref, fault)}
    )
    return {
        "hash": key(fault),
        "causes": causes,
        "symptoms": symptoms,
        "gap": round(gap, 4),
        "floor": round(floor, 4),
        "shares": {c: [None if x is None else round(x, 2) for x in each] for c, each in tried.items()},
    }


def symptoms_of(o: Outcome, reference: Outcome, fault: Fault) -> set[str]:
    """All symptoms that somebody who sees everything could name."""
    found: set[str] = set()
    x = np.array(o.losses, float)
    finite = x[np.isfinite(x)]
    if fault.cause == "input-bound":
        return {"wasteful", "silent"}
    if len(finite) < len(x):
        found.add("non-finite")
    if len(finite) < 4:
        return found | {"exploding-gradient", "diverging"}
    n = max(3, len(finite) // 10)
    _start, end, half = (float(np.median(part)) for part in (finite[:3], finite[-n:], finite[len(finite) // 2 :][:n]))
    first, low = float(finite[0]), float(np.min(np.convolve(finite, np.ones(n) / n, "valid")))
    jumps = float(np.median(np.abs(np.diff(finite[len(finite) // 2 :]))))
    good = float(np.median(reference.losses[-n:]))
    comparable = fault.program.loss is None and fault.program.target_scale == 1 and fault.program.weight == 1
    high = abs(first) + 1e-9
    if (end > 1.3 * first and end - low > 0.2 * high) or (end > 3 * abs(low) + 0.1 * high and end > 0.5 * first):
        found.add("diverging")
    if float(finite.max()) > 10 * high or end > 10 * high:
        found |= {"exploding-gradient", "loss-spike"}
    if end > 0.93 * first or (
        comparable and end - good > 0.9 * max(float(np.median(reference.losses[:3])) - good, 1e-9)
    ):
        found.add("loss-not-decreasing")
    if jumps > 0.15 * max(abs(end), 0.02 * high):
        found.add("loss-oscillating")
    spikes = finite[5:] > max(3 * np.median(finite), np.median(finite) + 0.5 * high)
    if 1 <= int(spikes.sum()) <= 0.1 * len(finite):
        found.add("loss-spike")
    if half - end > 0.03 * max(abs(half), 1e-9):
        found.add("slow-convergence")
    if end < 0.97 * first and half - end < 0.1 * max(abs(half), 1e-9):
        found.add("plateau")
    val = np.array([v for v in o.val if math.isfinite(v)])
    if (len(val) >= 4 and float(np.mean(val[-2:])) > 1.1 * float(val.min()) + 1e-6) or (
        len(val) and val[-1] > 1.5 * abs(end) + 0.05
    ):
        found.add("overfitting")
    found |= BY_CAUSE.get(fault.cause, set())
    if comparable and end <= good + 0.1 * max(float(np.median(reference.losses[:3])) - good, 0):
        found.add("silent")
    return found or {"silent"}


BY_CAUSE: dict[str, set[str]] = {
    "deep-vanishing": {"vanishing-gradient"},
    "init-too-small": {"vanishing-gradient"},
    "saturated-units": {"vanishing-gradient"},
    "dead-units": {"vanishing-gradient"},
    "output-activation": {"vanishing-gradient"},
    "deep-exploding": {"exploding-gradient"},
    "init-too-large": {"exploding-gradient"},
    "input-unscaled": {"exploding-gradient"},
    "target-unscaled": {"exploding-gradient"},
    "loss-sum": {"exploding-gradient", "silent"},
    "grad-not-cleared": {"exploding-gradient"},
    "bad-batch": {"loss-spike"},
    "not-stepped": {"no-op-step"},
    "lr-zero": {"no-op-step"},
    "frozen-in-optimizer": {"no-op-step"},
    "not-in-optimizer": {"no-op-step", "silent"},
    "step-without-effect": {"no-op-step"},
    "scaled-clip": {"no-op-step"},
    "no-gradient": {"no-op-step", "silent"},
    "loss-scale": {"no-op-step", "silent"},
    "overtrained": {"overfitting"},
    "train-val-mismatch": {"overfitting", "silent"},
    "eval-mode": {"silent"},
    "train-mode": {"silent"},
    "data-order": {"silent"},
    "class-imbalance": {"silent"},
    "labels-constant": {"silent"},
    "loss-mismatch": {"silent"},
    "shape-broadcast": {"silent"},
}
"""What a cause shows by definition, in gradients, updates or data and not in the curve of the loss."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("-n", type=int, default=1)
    args = parser.parse_args()
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    todo = [
        n for n, f in FAULTS.items() if (n in args.names or not args.names) and known.get(n, {}).get("hash") != key(f)
    ]
    with ProcessPoolExecutor(args.n, get_context("spawn")) as pool:
        for i, (name, found) in enumerate(zip(todo, pool.map(judged, todo), strict=True)):
            known[name] = found
            print(f"{i + 1}/{len(todo)} {name}: {found['causes']} {found['symptoms']} gap {found['gap']}", flush=True)
            if i % 5 == 4 or i == len(todo) - 1:
                ordered = {n: known[n] for n in FAULTS if n in known}
                FILE.write_text(
                    "{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in ordered.items()) + "\n}\n"
                )


if __name__ == "__main__":
    main()
