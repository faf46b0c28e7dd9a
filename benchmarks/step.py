"""The time of an optimizer's step, ours against every way that torch and others offer, side by side.

    python benchmarks/step.py            # five processes for each row of the table of benchmarks/README.md
    python benchmarks/step.py --quick    # one

A step is clipping by the global norm and the update; ours gathers its statistics besides. In each process all
contestants take turns, round after round, and ratios are of medians over the rounds; the table shows the median over
the processes. A process in which the bandwidth of an in-place `add_` varies by more than 20 % between the thirds of its
rounds is void, where the model does not fit into caches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import surefoot as sf

WIDTH, LAYERS = 512, 6
BLOCK = [(3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,), (4 * WIDTH, WIDTH), (4 * WIDTH,)]
BLOCK += [(WIDTH, 4 * WIDTH), *[(WIDTH,)] * 5]
CONV = [(64, 3, 7, 7), *[(64, 64, 3, 3), (64,), (64,)] * 4, *[(128, 128, 3, 3), (128,), (128,)] * 4]
CONV += [*[(256, 256, 3, 3), (256,), (256,)] * 4, (512, 256, 1, 1), (1000, 512), (1000,)]
MODELS = {
    "23 M in 76 tensors": [(8192, WIDTH), (256, WIDTH), *BLOCK * LAYERS, (WIDTH,), (WIDTH,)],
    "0.4 M in 400 tensors": [(64, 64), (64,), (64,), (64,)] * 100,
    "4 M, convolutions, channels_last": CONV,
}
RULES = {  # our name of it, options, bytes that both passes must move for each fp32 element
    "AdamW": ("AdamW", {"lr": 1e-3}, 32),
    "SGD-momentum": ("SGD", {"lr": 1e-2, "momentum": 0.9}, 24),
    "RMSprop": ("RMSprop", {"lr": 1e-3}, 24),
    "RMSprop centred, momentum": ("RMSprop", {"lr": 1e-3, "centered": True, "momentum": 0.9}, 40),
    "Adagrad": ("Adagrad", {"lr": 1e-2}, 24),
}
FUSED = ("AdamW", "SGD", "Adagrad")
STEADY = 0.2  # how much the bandwidth may vary
T95 = 2.132  # Student: one-sided 95 % of five
PEERS = {"heavyball": "AdamW", "pytorch_optimizer": "AdamW", "optimi": "AdamW"}


class Contestant:
    """An optimizer with its own copy of a model's parameters, and how it clips."""

    def __init__(
        self, shapes: list, make: Callable, clip: dict | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        layout = {"memory_format": torch.channels_last}
        self.params = [
            nn.Parameter((torch.randn(s) * 0.02).to(dtype, **(layout if len(s) == 4 else {}))) for s in shapes
        ]
        self.grads = [torch.randn_like(p) * 1e-2 for p in self.params]
        self.optimizer = make(self.params)
        self.clip = clip
        self.times: list[float] = []

    def step(self) -> float:
        for p, g in zip(self.params, self.grads, strict=True):
            p.grad = g.clone(memory_format=torch.preserve_format)  # as backward does after zero_grad()
        began = time.perf_counter()
        if self.clip is not None:
            clip_grad_norm_(self.params, 1.0, **self.clip)
        self.optimizer.step()
        return time.perf_counter() - began


def contestants(rule: str, shapes: list) -> dict[str, Contestant]:
    """Ours, torch's three implementations with both ways to clip, and what is installed besides."""
    name, options, _ = RULES[rule]
    found = {"ours": Contestant(shapes, lambda ps: getattr(sf.optim, name)(ps, clip_norm=1.0, **options))}
    ways = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    for way, flags in ways.items():
        for foreach in (True, False):
            if way != "fused" or name in FUSED:
                found[f"torch {way}, clip foreach={foreach}"] = Contestant(
                    shapes,
                    lambda ps, flags=flags: getattr(torch.optim, name)(ps, **flags, **options),
                    {"foreach": foreach},
                )
    for package, factory in PEERS.items() if rule == "AdamW" else ():
        try:
            cls = getattr(importlib.import_module(package), factory)
            found[package] = Contestant(shapes, lambda ps, cls=cls: cls(ps, lr=1e-3, weight_decay=0.01), {})
            found[package].step()
        except (ImportError, AttributeError, TypeError, RuntimeError) as error:  # noqa: PERF203
            found.pop(package, None)
            print(f"{package} is left out: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def compare(model: str, rule: str, rounds: int) -> dict:
    """Median seconds of each contestant, and of `add_` over as many elements, taking turns."""
    shapes = MODELS[model]
    racing = contestants(rule, shapes)
    elements = sum(p.numel() for p in racing["ours"].params)
    flat, adds = torch.zeros(23 * 10**6), []
    warm, timed = (1, 1) if elements > 10**7 else (3, 10)
    for _ in range(rounds):
        for contestant in racing.values():
            for _ in range(warm):
                contestant.step()
            contestant.times += [contestant.step() for _ in range(timed)]
        flat.add_(1)
        for _ in range(3):
            began = time.perf_counter()
            flat.add_(1)
            adds.append(time.perf_counter() - began)
    thirds = [statistics.median(adds[i * len(adds) // 3 : (i + 1) * len(adds) // 3]) for i in range(3)]
    return {
        "seconds": {name: statistics.median(c.times) for name, c in racing.items()},
        "bandwidth": 8 * flat.numel() / statistics.median(adds),
        "varies": max(thirds) / min(thirds) - 1,
        "bytes": elements * RULES[rule][2],
        "grown": grown(racing["ours"].optimizer),
    }


def grown(optimizer: torch.optim.Optimizer) -> int:
    """By how many bytes this process's memory was larger at most during a step than before it."""
    pages = os.sysconf("SC_PAGE_SIZE")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * pages
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    optimizer.step()
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - before


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, norm_first=True, dropout=0.0)
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(x)))


def beside_a_model(rounds: int) -> float:
    """Time of forward and backward beside our optimizer over that beside torch's fused one."""
    sides = []
    for make in (lambda ps: sf.optim.AdamW(ps, clip_norm=1.0), lambda ps: torch.optim.AdamW(ps, fused=True)):
        torch.manual_seed(0)
        model = Transformer()
        sides.append((model, make(model.parameters()), []))
    for i in range(rounds):
        x = torch.randint(256, (8, 64), generator=torch.Generator().manual_seed(i))
        for model, optimizer, times in sides if i % 2 else sides[::-1]:
            for _ in range(2):  # the first of two, so that neither finds the other's leavings
                optimizer.zero_grad()
                began = time.perf_counter()
                nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
                took = time.perf_counter() - began
                optimizer.step()
            times.append(took)
    return statistics.median(a / b for a, b in zip(sides[0][2][5:], sides[1][2][5:], strict=True))


FIRST = """
import time, torch, surefoot as sf
model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 10))
opt = sf.optim.AdamW(model.parameters(), clip_norm=1.0)
model(torch.ones(4, 256)).sum().backward()
began = time.perf_counter()
opt.step()
print(time.perf_counter() - began)
"""


def first_steps() -> tuple[float, float]:
    """Seconds of the first step of a process: compiling, and with the code on disk."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "SUREFOOT_CACHE": folder}
        run = [sys.executable, "-c", FIRST]
        cold, cached = (float(subprocess.run(run, env=env, capture_output=True, check=True).stdout) for _ in range(2))
    return cold, cached


def in_a_process(case: str, rounds: int) -> Any:
    """What a fresh process measures of a case."""
    command = [sys.executable, __file__, "--case", case, "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def processes(case: str, wanted: int, rounds: int) -> list[dict]:
    """The rows of so many processes that are not void; of fewer, where the machine is not quiet for long."""
    rows: list[dict] = []
    for _ in range(4 * wanted):
        row = in_a_process(case, rounds)
        if row["varies"] <= STEADY or not case.startswith("23 M") or wanted == 1:
            rows.append(row)
        if len(rows) == wanted:
            break
    if len(rows) < wanted:
        print(f"{case}: only {len(rows)} of {4 * wanted} processes had a steady bandwidth", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="cases with these words in their name")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case == "beside":
        print(beside_a_model(10 * args.rounds))
    elif args.case:
        print(json.dumps(compare(*args.case.split("|"), args.rounds)))
    else:
        wanted, rounds = (1, 6) if args.quick else (5, 10)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {wanted} processes a row\n")
        show_steps(
            [f"{model}|{rule}" for model in MODELS for rule in RULES if args.only in f"{model}|{rule}"], wanted, rounds
        )
        show_rest(wanted, rounds)


def show_steps(cases: list[str], wanted: int, rounds: int) -> None:
    """Print the table of all cases."""
    print(
        "| model | optimizer | ours, ms | torch's best, ms (which) | ours / best | ours / default | ours / bandwidth |"
    )
    print("|---|---|---|---|---|---|---|")
    others: dict[str, list[str]] = defaultdict(list)
    grown = 0
    for case in cases:
        rows = processes(case, wanted, rounds)
        if not rows:
            continue
        seconds = {name: statistics.median(row["seconds"][name] for row in rows) for name in rows[0]["seconds"]}
        best = min((name for name in seconds if name.startswith("torch")), key=seconds.__getitem__)
        default = min((name for name in seconds if name.startswith("torch default")), key=seconds.__getitem__)
        over = statistics.median(row["seconds"]["ours"] * row["bandwidth"] / row["bytes"] for row in rows)
        to_best, to_default = (ratio(rows, name) for name in (best, default))
        figures = f"{1e3 * seconds['ours']:.3f} | {1e3 * seconds[best]:.3f} ({best.removeprefix('torch ')})"
        bound = f"{over:.2f}" if case.startswith("23 M") else "(in caches)"
        print(f"| {case.replace('|', ' | ')} | {figures} | {to_best:.3f} | {to_default:.3f} | {bound} |", flush=True)
        grown = max(grown, *(row["grown"] for row in rows))
        for package in PEERS.keys() & seconds.keys():
            others[package].append(f"{ratio(rows, package):.3f} ({case.split('|')[0]})")
    for package, ratios in others.items():
        print(f"\nours / {package}, AdamW: {', '.join(ratios)}")
    print(f"\nmemory grown in a warm step, at most: {grown / 2**20:.2f} MB")


def show_rest(wanted: int, rounds: int) -> None:
    """Print what happens beside the step, and at the first one."""
    beside = [in_a_process("beside", rounds) for _ in range(wanted)]
    upper = statistics.mean(beside) + (T95 * statistics.stdev(beside) / wanted**0.5 if wanted == 5 else 0.0)
    cold, cached = (statistics.median(each) for each in zip(*(first_steps() for _ in range(wanted)), strict=True))
    print(
        f"forward and backward beside ours over beside torch fused: {statistics.median(beside):.3f}, 95 %: {upper:.3f}"
    )
    print(f"first step: compiling {cold:.2f} s, from the cache {cached:.3f} s")


def ratio(rows: list[dict], name: str) -> float:
    """Ours over a contestant: the median over the processes."""
    return statistics.median(row["seconds"]["ours"] / row["seconds"][name] for row in rows)


if __name__ == "__main__":
    main()
