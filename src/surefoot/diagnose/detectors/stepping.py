"""Facts of the loop: gradients that are not cleared, steps that are not taken or do nothing, modes, clipping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.reading import Reading, median

AGREED, NOWHERE = 0.3, 2.0  # gradients that agree, and weights no more than so many updates from where they were
UPHILL = -0.1  # cosine between update and descent
SURE = 3  # times that a thing happens before it is no chance


def grad_not_cleared(r: Reading) -> Iterator[Claim]:
    """Backward began with gradients that a step had used already, and the next step used them again."""
    stale = r.counts.stale
    if stale >= 2 and stale > 0.2 * r.counts.closely:
        yield Claim(
            "grad-not-cleared",
            "critical",
            (Evidence("stale", stale), Evidence("steps", r.counts.closely)),
            first_step=r.counts.first["stale"],
            certain=True,
        )


def not_stepped(r: Reading) -> Iterator[Claim]:
    """Gradients are worked out and thrown away, or weights move without a step of the watched optimizer."""
    c = r.counts
    evidence = (Evidence("backwards", c.backwards), Evidence("steps", c.closely))
    if c.thrown >= 2 * SURE and c.thrown > 3 * c.closely:
        yield Claim(
            "not-stepped",
            "critical",
            (*evidence, Evidence("thrown", c.thrown)),
            symptom="no-op-step",
            first_step=c.first["thrown"],
            certain=True,
        )
    elif c.foreign >= SURE and c.foreign > 3 * c.closely:
        yield Claim(
            "not-stepped",
            "critical",
            (*evidence, Evidence("foreign", c.foreign)),
            first_step=c.first["foreign"],
            certain=True,
        )
    elif r.steps == 0 and (c.backwards >= 64 or (r.over and c.backwards >= SURE)):
        yield Claim("not-stepped", "critical", evidence, symptom="no-op-step", first_step=0, certain=True)


def scaler(r: Reading) -> Iterator[Claim]:
    """A loss scaler leaves out many steps, or clipping came before the scale was taken out."""
    c = r.counts
    weights = r.signals.column("weight")
    scales = weights[np.isfinite(weights) & (np.abs(weights) > 1.5)]
    if c.skipped >= 5 and c.skipped > 0.3 * max(c.closely + c.skipped, 1):
        scale = float(scales[-1]) if len(scales) else float("nan")
        yield Claim(
            "loss-scale",
            "critical",
            (Evidence("skipped", c.skipped), Evidence("loss_scale", scale)),
            first_step=c.first["skipped"],
            certain=True,
        )
    yield from _overflow(r)
    yield from _underflow(r)
    if len(scales) < SURE:
        return
    clips = np.array([look.clip for look in r.late(1.0)])
    at = {int(step): weight for step, weight in zip(r.at, weights, strict=True)}
    left = np.array([look.clip * at.get(look.step, float("nan")) for look in r.late(1.0)])
    left, clips = left[np.isfinite(left)], clips[np.isfinite(clips)]
    if len(left) >= SURE and median(left) < 0.02:
        yield Claim(
            "scaled-clip",
            "critical",
            (Evidence("clip_factor", median(left), 0.02), Evidence("loss_scale", median(scales))),
            certain=True,
        )


def _overflow(r: Reading) -> Iterator[Claim]:
    """Before the loss breaks, the scaled gradient of a finite loss does."""
    if not r.counts.broken_losses:
        return
    known = {step.step: step for step in r.signals.steps.items}
    for look in r.looks:
        step = known.get(look.step)
        if step is None or not np.isfinite(step.loss):
            return
        if step.weight > 1.5 and not bool(np.isfinite(look.grad).all()):
            yield Claim("loss-scale", "critical", (Evidence("loss_scale", step.weight), Evidence("loss", step.loss)),
                        first_step=look.step - 1, symptom="non-finite", certain=True)  # fmt: skip
            return


def _underflow(r: Reading) -> Iterator[Claim]:
    """Gradients that are exactly 0 up to the last layer, though the loss is not."""
    late = [look for look in r.late(0.8) if len(look.zeros) >= 2]
    if len(late) < SURE or r.steps < 10 or (r.now > 0.9 and not r.facts.get("half")):
        return
    half = bool(r.facts.get("half"))  # else it takes all: heads that are not used have no gradient either
    zeros = median([median(look.zeros[-2:]) if half else float(look.zeros.min()) for look in late])
    if zeros > 0.9 and r.counts.first.get("broken_losses") is None and (half or r.facts.get("slope", 0.0) > 0):
        yield Claim(
            "loss-scale", "critical", (Evidence("zero_gradients", zeros, 0.9),), certain=True, symptom="no-op-step"
        )


def without_effect(r: Reading) -> Iterator[Claim]:
    """There are gradients and a rate, and weights do not move: the update is rounded away, or goes elsewhere."""
    travel = r.recent("travel")
    if len(travel) >= 2 and r.steps >= 50 and r.agreement > AGREED and float(travel.max()) < NOWHERE:
        yield Claim("step-without-effect", "critical", (Evidence("travel", median(travel), NOWHERE),
                    Evidence("agreement", r.agreement)), symptom="no-op-step", certain=True)  # fmt: skip
        return
    still = not any(bool((look.update > 0).any()) for look in r.looks)
    if still and bool((r.looks[0].weight != r.looks[-1].weight).any() if r.looks else False):
        return  # weights move, between the steps: copied from elsewhere
    late = [look for look in r.late(0.8) if bool((look.grad > 0).any())]
    lrs = r.lrs[np.isfinite(r.lrs)]
    if (
        len(late) < SURE
        or not len(lrs)
        or float(lrs[-min(len(lrs), 20) :].max()) <= 1e-3 * float(lrs.max())
        or r.counts.foreign
    ):
        return
    moved = np.array([median(look.moved[look.grad > 0]) for look in late])
    undone = r.recent("undone", 0.8)
    if len(undone) >= SURE and median(undone) > 0.5:
        yield Claim("step-without-effect", "critical", (Evidence("undone", median(undone), 0.5),),
                    first_step=late[0].step, symptom="no-op-step", certain=True)  # fmt: skip
    elif median(moved) < 0.1 and median(late[-1].grad) > 1e-2 * median(r.looks[0].grad):  # not only for having arrived
        yield Claim(
            "step-without-effect",
            "critical",
            (Evidence("moved", median(moved), 0.1),),
            first_step=late[0].step,
            symptom="no-op-step",
            certain=True,
        )


def modes(r: Reading) -> Iterator[Claim]:
    """Training with dropout and batch-norm as in evaluation, or evaluating as in training."""
    c = r.counts
    if c.in_eval_mode >= SURE and c.in_eval_mode > 0.3 * c.backwards:
        yield Claim(
            "eval-mode",
            "warning",
            (Evidence("in_eval_mode", c.in_eval_mode), Evidence("backwards", c.backwards)),
            first_step=c.first["in_eval_mode"],
            certain=True,
        )
    if c.validated_in_train_mode >= 1:
        yield Claim(
            "train-mode",
            "warning",
            (Evidence("validated_in_train_mode", c.validated_in_train_mode),),
            first_step=c.first["validated_in_train_mode"],
            certain=True,
        )


def detached(r: Reading) -> Iterator[Claim]:
    """Losses that backward cannot go through, and parameters that no gradient has ever reached."""
    if r.counts.flat_losses >= SURE and r.counts.flat_losses > r.steps:
        yield Claim(
            "no-gradient",
            "critical",
            (Evidence("flat_losses", r.counts.flat_losses),),
            certain=True,
            first_step=r.counts.first["flat_losses"],
        )
    elif r.steps >= SURE:
        never = sorted({name for key, names in r.facts.items() if key.startswith("without ") for name in names})
        if never:
            ran = [name for name in never if name.rpartition(".")[0] in r.facts.get("ran", ())]
            yield Claim(
                "no-gradient",
                "warning" if ran else "info",
                (Evidence("without_gradient", len(never)),),
                tuple(ran or never),
                certain=True,
            )


def flipped(r: Reading) -> Iterator[Claim]:
    """The loss reaches backward with a weight below 0: the steps go up."""
    weights = r.signals.column("weight")
    below = np.nonzero(weights < 0)[0]
    if len(below) >= SURE and len(below) > 0.5 * np.count_nonzero(np.isfinite(weights)):
        yield Claim(
            "sign-flipped",
            "critical",
            (Evidence("loss_weight", median(weights[below]), 0.0),),
            certain=True,
            first_step=max(int(r.at[below[0]]) - 1, 0),
            symptom="diverging",
        )
    descent = np.array([look.momentum for look in r.looks[:12]])
    descent = descent[np.isfinite(descent)]
    if len(descent) >= 2 * SURE and bool((descent < UPHILL).all()) and not r.facts.get("maximize"):
        yield Claim("sign-flipped", "critical", (Evidence("descent_cosine", median(descent), UPHILL),),
                    symptom="diverging", certain=True)  # fmt: skip


def zero_rate(r: Reading) -> Iterator[Claim]:
    """Steps at a rate of 0."""
    lrs = r.lrs
    tail = 0
    for lr in lrs[::-1]:
        if lr != 0:
            break
        tail += 1
    if tail >= SURE and tail > 0.05 * len(lrs):
        first = int(r.at[-tail]) - 1
        yield Claim(
            "lr-zero",
            "critical",
            (Evidence("lr", 0.0), Evidence("steps", tail)),
            first_step=first,
            certain=True,
            symptom="no-op-step",
        )


DETECTORS = (grad_not_cleared, not_stepped, scaler, without_effect, modes, detached, flipped, zero_rate)
