"""The watch over a training: what it finds goes into the record, the summary and the terminal."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from surefoot.diagnose.finding import Finding
from surefoot.diagnose.watch import watch
from surefoot.train.between import Recording
from surefoot.train.training import Training

log = logging.getLogger("surefoot")


@contextmanager
def watched(t: Training, record: Recording, quiet: bool, wanted: bool = True) -> Generator[None]:
    """While this context lasts, the training is watched; at its end `t.findings` are what was found.

    Args:
        quiet: log no warnings
        wanted: whether it is to be watched at all
    """
    if not wanted:
        yield
        return

    def found(finding: Finding) -> None:
        record.event(t.position.step, "finding", **told(finding))

    t.step.watch = watch(t.forward, t.optimizer, steps=t.plan.steps, on_finding=found, quiet=True)
    if t.seen is not None:
        t.step.watch.load_state_dict(t.seen)
    try:
        yield
    finally:
        t.step.watch.close()
        t.findings = [told(finding) for finding in t.step.watch.findings]
        record.event(t.position.step, "findings", findings=t.findings)
        for finding in t.step.watch.findings:
            if not quiet and finding.severity != "info":
                log.warning("%s", finding.text())


def told(finding: Finding) -> dict[str, Any]:
    """A finding as the record and the summary keep it."""
    return finding.to_dict()
