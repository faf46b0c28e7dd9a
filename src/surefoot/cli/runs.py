"""What is done with runs: surefoot verify, export, replay."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from surefoot.cli.parser import Commands
from surefoot.diagnose.knowledge import LANGUAGES
from surefoot.diagnose.runs import diagnosed
from surefoot.diagnose.weighing import weighed
from surefoot.diagnose.words import verdict
from surefoot.record import Run
from surefoot.record.export import FORMS, export
from surefoot.record.verify import verify
from surefoot.task.load import load
from surefoot.train.probe import facts, probed
from surefoot.train.replay import replay


def add(commands: Commands) -> None:
    """The commands and their flags."""
    verifying = commands.add("verify", verify_run, "check a run's files")
    exporting = commands.add("export", export_record, "write a run's record for other programs")
    replaying = commands.add("replay", replay_step, "compute the step again that a run failed at")
    diagnosing = commands.add("diagnose", diagnose, "say what is wrong with a run, why, and what to do")
    for command in (verifying, exporting, replaying, diagnosing):
        command.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    diagnosing.add_argument("--lang", choices=LANGUAGES, default="en", help="of the findings (default: en)")
    diagnosing.add_argument(
        "--probe",
        action="store_true",
        help="try out from its last checkpoint what would help, to rank the causes",
    )
    diagnosing.add_argument("--json", action="store_true", help="print the findings as JSON, in both languages")
    form = exporting.add_mutually_exclusive_group(required=True)
    target: dict[str, Any] = {"nargs": "?", "const": Path("-"), "type": Path, "metavar": "FILE"}
    form.add_argument("--csv", help="a table, into a file or (without one) the terminal", **target)
    form.add_argument("--json", help="signals and events, likewise", **target)
    form.add_argument("--jsonl", help="a line a step, then a line an event, likewise", **target)
    form.add_argument("--parquet", type=Path, metavar="FILE", help="a table, into a file")
    replaying.add_argument("--device", default="cpu", help="where to compute (default: cpu)")


def verify_run(args: argparse.Namespace) -> int:
    """Check every file of a run's checkpoints against its hash, and its record; the status is 1 if any is damaged."""
    sound = True
    for intact, line in verify(Run(args.run)):
        print(f"{'ok' if intact else 'DAMAGED':9}{line}")
        sound = sound and intact
    return 0 if sound else 1


def diagnose(args: argparse.Namespace) -> int:
    """Judge a recorded run anew; the status is 1 if there is a warning."""
    run = Run(args.run)
    findings, steps, watched = diagnosed(run)
    probe = None
    if args.probe:
        probe = probed(run, load(reference(run)))
        findings = weighed(findings, probe, facts(run))
    if args.json:
        print(json.dumps([finding.to_dict() for finding in findings], ensure_ascii=False, indent=1))
    else:
        print(verdict(findings, steps, args.lang))
        if probe is not None:
            print(f"\n{probe.text(args.lang)}")
        if not watched:
            print("\n(it was not watched: judged by loss, learning rate, gradient norm and validation alone)")
    return 1 if any(finding.severity != "info" for finding in findings) else 0


def export_record(args: argparse.Namespace) -> int:
    """Write all signals of a run, and as JSON its events too. The run may be under way."""
    form, file = next((form, getattr(args, form)) for form in FORMS if getattr(args, form) is not None)
    export(Run(args.run), form, None if file == Path("-") else file)
    return 0


def replay_step(args: argparse.Namespace) -> int:
    """Compute the step again that a run failed at, and name the first tensor that holds a NaN or an infinity."""
    run = Run(args.run)
    found = replay(run, load(reference(run)), torch.device(args.device))
    print(f"first in {found}" if found else "computed again, all numbers of the step are finite")
    return 1 if found else 0


def reference(run: Run) -> str:
    """What the command line calls the task of a run."""
    began = run.task
    home, colon, function = began["task"].rpartition(":")
    return f"{began['source']}:{function}" if home.endswith(".py") else f"{home}{colon}{function}"
