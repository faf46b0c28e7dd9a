"""What a probe says of causes that dynamics cannot tell apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from surefoot.diagnose import knowledge
from surefoot.diagnose.finding import Evidence, Finding, Severity
from surefoot.diagnose.ranking import MOST
from surefoot.diagnose.trials import Probe

NEIGHBOURS = (  # not to be told apart without a probe; in each the first of those that gain alike comes first
    ("input-unscaled", "loss-sum", "init-too-large", "lr-too-high", "no-warmup"),
    ("input-unscaled", "clip-too-tight", "lr-too-low", "optimizer-unsuited", "batch-too-large", "undertrained"),
    ("init-too-small", "deep-vanishing", "dead-units"),
)
ORDER = tuple(dict.fromkeys(cause for group in NEIGHBOURS for cause in group))
ALIKE = 0.8  # the share of the largest gain that is as good
ADDS = 0.3  # of the level of the loss: what a trial must gain to speak where nothing else was found
STILL = 0.1  # of that gain: what the loss may fall by without it
COSTS = 0.2  # the gain beyond which a cause is a warning, and takes the place of what is only good to know


def weighed(
    findings: Sequence[Finding], probe: Probe | None, certain: Collection[str] = (), ignore: Collection[str] = ()
) -> list[Finding]:
    """The findings, with causes put first whose trials gain most, within groups that nothing else can tell apart; one
    that no finding speaks of where nothing was found and a trial gains very much.

    Args:
        certain: causes that are facts, which no trial can refute
        ignore: causes that nobody wants to hear of
    """
    if probe is None or not probe.trials:
        return list(findings)
    found: list[Finding] = []
    for finding in findings:
        new = confirmed(finding, probe) if finding.cause in certain else exchanged(finding, probe, {*certain, *ignore})
        if all(new.cause != other.cause for other in found):
            found.append(new)
    if not any(finding.severity != "info" for finding in findings):
        found = [*added(probe, [*ignore, *(finding.cause for finding in found)]), *found]
    return sorted(found, key=lambda finding: finding.severity == "info")[:MOST]


def exchanged(finding: Finding, probe: Probe, beside: Collection[str] = ()) -> Finding:
    """A finding, or that of its neighbour whose trial gains clearly more; what was tried is added to the evidence."""
    group = _group(finding)
    best = winner(finding.cause, [cause for cause in group if cause not in beside], probe)
    trial = None if best is None else probe.of(best)
    small = finding.severity == "info" and trial is not None and trial.gain <= COSTS
    if best is None or best == finding.cause or small:
        return confirmed(finding, probe)
    others = dict.fromkeys((finding.cause, *finding.alternatives, *knowledge.cause(best).alternatives))
    return replace(
        finding,
        cause=best,
        severity=_severity(finding, best),
        where=(),
        evidence=(*finding.evidence, *evidence(best, probe), *evidence(finding.cause, probe)),
        alternatives=tuple(cause for cause in others if cause != best),
        consequences=tuple(each for each in finding.consequences if each != best),
        details=(),
    )


def winner(cause: str, group: Sequence[str], probe: Probe) -> str | None:
    """The cause among neighbours whose trial gains clearly most; of those that gain alike the earliest. None where no
    trial tells, or the finding's cause comes first and was not tried."""
    tried = {each: probe.of(each) for each in group}
    sure = {each: trial.gain for each, trial in tried.items() if trial is not None and trial.sure}
    if not sure:
        own = tried.get(cause)
        return "undertrained" if own is not None and "undertrained" in group and probe.falls else None
    alike = [each for each, gain in sure.items() if gain >= ALIKE * max(sure.values())]
    first, own = min(alike, key=ORDER.index), tried.get(cause)
    if own is None:
        return None if ORDER.index(cause) < ORDER.index(first) else first
    return cause if own is tried[first] else first  # the same trial speaks for both


def confirmed(finding: Finding, probe: Probe) -> Finding:
    """The finding, with what was tried."""
    return replace(finding, evidence=(*finding.evidence, *evidence(finding.cause, probe)))


def added(probe: Probe, known: Sequence[str]) -> list[Finding]:
    """A cause that nothing but a trial speaks for, where the loss hardly moves without it."""
    gains = {cause: trial for cause in ORDER if (trial := probe.of(cause)) is not None and trial.sure}
    if not gains:
        return []
    most = max(trial.gain for trial in gains.values())
    cause = next(cause for cause, trial in gains.items() if trial.gain >= ALIKE * most)
    still = probe.trials[0].fall < STILL * most
    if most < ADDS or not still or cause in known:
        return []
    alternatives = tuple(knowledge.cause(cause).alternatives)
    return [Finding("plateau", cause, "warning", 0, (), evidence(cause, probe), alternatives)]


def evidence(cause: str, probe: Probe) -> tuple[Evidence, ...]:
    """What was tried for a cause, and what it gained."""
    trial = probe.of(cause)
    if trial is not None:
        return (Evidence(f"gain_{trial.name.replace('-', '_')}", trial.gain, trial.noise),)
    if cause == "undertrained":
        return (Evidence("fall_as_it_is", probe.trials[0].fall),)
    return ()


def _group(finding: Finding) -> list[str]:
    """The neighbours of a cause, itself among them."""
    groups = [group for group in NEIGHBOURS if finding.cause in group]
    named = [cause for cause in finding.alternatives if cause in ORDER]
    return list(dict.fromkeys([*(c for group in groups for c in group), *(named if groups else ())]))


def _severity(finding: Finding, cause: str) -> Severity:
    if cause == "undertrained":
        return "info"
    return "warning" if finding.severity == "info" else finding.severity
