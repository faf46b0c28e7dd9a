"""What exact checks know: of a model, its optimizers and its loss before the first step, and of single passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from surefoot.diagnose.base import blank_loss
from surefoot.diagnose.checks import (
    Found,
    activation,
    frozen,
    labels,
    left_out,
    mistaken,
    reach,
    shapes,
    unscaled_inputs,
    unscaled_targets,
    without_rate,
)
from surefoot.diagnose.checks.losses import CROSS_ENTROPY, NLL, REGRESSION, kind_in_graph, kind_of
from surefoot.diagnose.checks.slope import CERTAIN, aligned, towards
from surefoot.diagnose.checks.strays import strays
from surefoot.diagnose.checks.values import beside, is_plain, kind_by_value
from surefoot.diagnose.detectors.claim import Claim, in_words
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.reading import Reading
from surefoot.diagnose.structure import is_alike, structure
from surefoot.diagnose.symptom import oscillating
from surefoot.watch.collector import Collector
from surefoot.watch.passed import Passed
from surefoot.watch.signals import Signals
from surefoot.watch.wiring import plain

WHOLE_FAULT = {
    "not-in-optimizer",
    "frozen-in-optimizer",
    "no-gradient",
    "non-finite-input",
    "labels-constant",
    "sign-flipped",
}


def beginning(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], loss: nn.Module | None, signals: Signals
) -> dict[str, Claim]:
    """What is known before the first step."""
    signals.facts |= structure(model, optimizers)
    if kind_of(loss):
        signals.facts["loss_kind"] = kind_of(loss)
        signals.facts["ignore_index"] = getattr(loss, "ignore_index", -100)
    special = (getattr(loss, name, None) for name in ("weight", "pos_weight", "label_smoothing"))
    signals.facts["weighted"] = any(isinstance(each, Tensor) or bool(each) for each in special)
    found = left_out(model, *optimizers)
    for optimizer in optimizers if len(optimizers) == 1 else ():
        found += [*frozen(model, optimizer), *without_rate(optimizer)]
    return {each.cause: claim_of(each, 0) for each in found}


def of_pass(one: Passed, collector: Collector) -> Iterator[Claim]:
    """What is certainly wrong with one forward pass and its loss."""
    facts = collector.signals.facts
    facts["seen"] = facts.get("seen", 0) + 1
    if facts["seen"] > USUAL and facts["seen"] % RARELY:
        return
    outputs, targets = aligned(one.outputs, one.targets)
    kind = kind_of(one.criterion) or kind_in_graph(one.loss, one.outputs) or kind_by_value(one.loss, outputs, targets)
    if kind:
        facts.setdefault("loss_kind", kind)
    if isinstance(outputs, Tensor):
        facts["half"] = facts["half"] or outputs.dtype == torch.float16
        facts["outputs"] = outputs.shape[1] if outputs.ndim > 1 else 1
        facts["beside"], weighted = beside(one.loss, outputs, targets, kind) if one.criterion is None else (0.0, False)
        facts["weighted"] = facts["weighted"] or weighted
    yield from of_parameters(one, collector)
    found = unscaled_inputs(one.inputs, collector.model) + activation(outputs, kind)
    whole = isinstance(one.loss, Tensor) and one.loss.numel() == 1  # else items may be left out of it afterwards
    theirs = not kind.startswith("BCE") or (whole and one.criterion) or is_plain(one.loss, outputs, targets, kind)
    indices = isinstance(targets, Tensor) and not targets.is_floating_point() and kind in (CROSS_ENTROPY, NLL)
    if theirs and not indices:  # class numbers that the outputs do not have torch would have refused, or left out
        found += labels(outputs, targets, kind)
    found += shapes(outputs, targets, one.criterion or kind) + reach(outputs, targets, kind)
    found += unscaled_targets(targets, kind)
    facts["checked"] = facts.get("checked", 0) + 1
    for each in found:
        if each.cause in SCALES:  # one batch may be odd: most must be so
            facts[each.cause] = facts.get(each.cause, 0) + 1
            if facts[each.cause] < 2 or facts[each.cause] < 0.6 * facts["checked"]:
                continue
        yield claim_of(each, collector.step)


def of_parameters(one: Passed, collector: Collector) -> Iterator[Claim]:
    """Units that are still as one after some steps; weights that the outputs rest on and nobody trains."""
    facts, step = collector.signals.facts, collector.step
    for each in mistaken(collector.model):
        yield claim_of(each, step)
    if step >= STILL and facts["alike"]:
        missing = {name for key, names in facts.items() if key.startswith("without ") for name in names}
        now = {plain(name): p for name, p in collector.model.named_parameters()}
        still = [name for name in facts["alike"] if name not in missing and is_alike(now[name])]
        facts["alike"] = still
        equal = [name for name in still if step >= LONG or not bool((now[name] == now[name].flatten()[0]).all())]
        if equal:  # constant ones may only not have moved yet
            yield Claim("init-symmetric", "critical", (Evidence("equal_units", 1.0),), tuple(equal),
                        certain=True)  # fmt: skip
    if step == 0 or facts.get("strays"):
        known = (*collector.model.parameters(), *(p for each in collector.tracked for p in each.params))
        found = strays(one.outputs, known)
        still = [each for each in found if each in facts.get("strays", ())]
        facts["strays"] = still if step else found
        if still and step >= LONG:
            yield Claim("not-in-optimizer", "critical", (Evidence("not_held", len(still)),),
                        tuple(f"tensor {list(shape)}" for _, _, shape in still), certain=True)  # fmt: skip


def of_slope(one: Passed, slope: Tensor, collector: Collector) -> Iterator[Claim]:
    """What the gradient at the outputs says: a loss that leads away from the targets, or one that is summed."""
    outputs, targets = aligned(one.outputs, one.targets)
    facts, found = collector.signals.facts, None
    if isinstance(outputs, Tensor):
        found = towards(outputs, targets, slope.reshape(outputs.shape))
    if found is None or one.weight is None or slope.numel() < FEW:
        return
    cosine, per_error = found
    facts["slope"] = float(slope.abs().max())
    away = cosine > CERTAIN if facts["maximize"] else cosine < -CERTAIN
    away = away and bool(facts.get("loss_kind"))  # of an unknown loss nobody knows what targets mean to it
    facts["away"] = facts.get("away", 0) + 1 if away else -1000
    if facts["away"] >= 3:
        yield Claim("sign-flipped", "critical", (Evidence("error_cosine", cosine, 0.0),), symptom="diverging",
                    certain=True)  # fmt: skip
    if cosine < EXACT or not float(one.weight):
        return
    each = per_error / float(one.weight) / (2 if facts.get("loss_kind") == REGRESSION[0] else 1)
    if each > MOST:
        return
    items = len(outputs)
    terms = items if not targets.is_floating_point() else outputs.numel()
    facts["loss_items"] = each * terms  # 1 of a mean
    if each > 0.9 and items >= 4:
        yield Claim("loss-sum", "warning", (Evidence("per_error", each, 1 / terms), Evidence("batch_size", items)),
                    first_step=collector.step, certain=True)  # fmt: skip


USUAL, RARELY = 12, 4  # passes that are all checked, and then every so many
STILL = 4  # steps after which what is as one will stay so
LONG = 12  # steps after which a weight that has not moved is not going to
FEW = 8  # numbers, of which a cosine says nothing
EXACT = 0.99  # cosine beyond which a gradient is that of a known loss
MOST = 10.0  # times the error, beyond which it is not: that of a probability which is clamped, say
SCALES = ("loss-sum", "input-unscaled", "target-unscaled")


def gentle(claim: Claim, r: Reading) -> Claim:
    """A fact of scale is no more than good to know where the training does well all the same."""
    well = r.now > 0.5 and not oscillating(r) and not r.far_off
    if claim.cause in SCALES and r.steps >= 8 and (well or foreseen(claim, r)):
        return replace(claim, severity="info")
    return replace(claim, severity="info") if trained_otherwise(claim, r) else claim


def trained_otherwise(claim: Claim, r: Reading) -> bool:
    """Whether weights move that the optimizer does not hold: somebody copies them, as with master weights."""
    if claim.cause != "not-in-optimizer" or len(r.looks) < 2:
        return False
    at = [i for i, name in enumerate(r.signals.names) if name in claim.where]
    first, last = r.looks[0].weight[at], r.looks[-1].weight[at]
    return bool(at) and bool((first != last).all())


def foreseen(claim: Claim, r: Reading) -> bool:
    """Whether the model knows where its targets lie: its first outputs are there, and not at 0."""
    return claim.cause == "target-unscaled" and r.start < 1.5 * r.base and blank_loss(r.signals) > 2 * r.base


def claim_of(found: Found, step: int) -> Claim:
    """An exact check's result as a claim."""
    evidence = tuple(
        Evidence(name, value) for name, value in found.evidence.items() if isinstance(value, int | float | str)
    )
    severity = "critical" if found.cause in WHOLE_FAULT else "warning"
    return Claim(found.cause, severity, evidence, found.where, step, certain=True, details=in_words(found.text))
