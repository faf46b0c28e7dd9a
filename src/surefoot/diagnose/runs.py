"""What is wrong with a training that was recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from surefoot.diagnose.detectors import Claim, claims
from surefoot.diagnose.facts import gentle
from surefoot.diagnose.finding import Finding
from surefoot.diagnose.ranking import ranked
from surefoot.diagnose.reading import Reading
from surefoot.diagnose.symptom import symptom
from surefoot.record import Run
from surefoot.watch.signals import Signals, Step, Validation


def diagnosed(run: Run) -> tuple[list[Finding], int, bool]:
    """Judge a recorded run anew, by what its watch had measured; of one that was not watched, by its loss, learning
    rate, gradient norm and validation alone.

    Returns:
        the findings, root cause first; the number of steps; whether it was watched
    """
    over = run.summary.get("status") == "finished"
    state: dict[str, Any] | None = None if run.last is None else run.last.state().get("watch")
    signals, facts = Signals(), list[Claim]()
    if state is None:
        recorded(run, signals)
    else:
        arrays = {name: t.numpy() for name, t in state["arrays"].items()}
        signals.load(arrays, state["collected"]["signals"])
        facts = [Claim.from_dict(claim) for claim in state["facts"]]
    return judged(signals, facts, over), signals.steps.items[-1].step if len(signals.steps) else 0, state is not None


def judged(
    signals: Signals, facts: Sequence[Claim], over: bool, planned: int | None = None, ignore: Sequence[str] = ()
) -> list[Finding]:
    """The findings that signals and the facts of exact checks lead to."""
    reading = Reading(signals, over, planned)
    found = [*(gentle(claim, reading) for claim in facts), *claims(reading)]
    return ranked(found, symptom(reading), ignore)


def recorded(run: Run, signals: Signals) -> None:
    """The signals in a run's record."""
    names = set(run.signals)
    columns = {
        name: dict(run.signal(name)) if name in names else {} for name in ("train/loss", "train/lr", "train/grad_norm")
    }
    nan = math.nan
    for step in sorted(columns["train/loss"]):
        loss, lr, norm = (columns[name].get(step, nan) for name in columns)
        signals.steps.append(Step(step, loss, lr, norm, 1.0, 1, nan))
        if not math.isfinite(loss):
            signals.counts.add("broken_losses", step)
    for step, loss in run.signal("val/loss") if "val/loss" in names else ():
        signals.validations.append(Validation(step, loss, nan, True, 0))
