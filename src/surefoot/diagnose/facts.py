"""What exact checks know: of a model, its optimizers and its loss before the first step, and of single passes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.diagnose.checks import (
    Found,
    activation,
    frozen,
    labels,
    left_out,
    reach,
    shapes,
    unscaled_inputs,
    unscaled_targets,
    without_rate,
)
from surefoot.diagnose.checks.losses import REGRESSION, kind_in_graph, kind_of
from surefoot.diagnose.checks.slope import CERTAIN, aligned, towards
from surefoot.diagnose.detectors.claim import Claim
from surefoot.diagnose.finding import Evidence
from surefoot.diagnose.knowledge import LANGUAGES
from surefoot.diagnose.reading import Reading
from surefoot.diagnose.symptom import oscillating
from surefoot.optim import Optimizer as Ours
from surefoot.watch.collector import Collector
from surefoot.watch.passed import Passed
from surefoot.watch.picks import local
from surefoot.watch.signals import Signals
from surefoot.watch.wiring import plain

DROPOUT = nn.modules.dropout._DropoutNd  # pyright: ignore[reportPrivateUsage]
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]
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
    signals.facts["gains"] = gains(model)
    signals.facts["symmetric"] = symmetric(model)
    signals.facts["normalised"] = all(normalised(optimizer) for optimizer in optimizers)
    signals.facts["weight_decay"], signals.facts["decoupled"] = decay(optimizers)
    groups = [group for each in optimizers for group in each.param_groups]
    signals.facts["momentum"] = max((float(group.get("momentum", 1.0)) for group in groups), default=1.0)
    signals.facts["dropout"] = max((float(m.p) for m in model.modules() if isinstance(m, DROPOUT)), default=0.0)
    signals.facts["narrow"] = narrow(model)
    if kind_of(loss):
        signals.facts["loss_kind"] = kind_of(loss)
        signals.facts["ignore_index"] = getattr(loss, "ignore_index", -100)
    special = (getattr(loss, name, None) for name in ("weight", "pos_weight", "label_smoothing"))
    signals.facts["weighted"] = any(isinstance(each, Tensor) or bool(each) for each in special)
    signals.facts["maximize"] = all(group.get("maximize", False) for group in groups)
    found: list[Found] = []
    for optimizer in optimizers if len(optimizers) == 1 else ():
        found += [*left_out(model, optimizer), *frozen(model, optimizer), *without_rate(optimizer)]
    return {each.cause: claim_of(each, 0) for each in found}


def of_pass(one: Passed, collector: Collector) -> Iterator[Claim]:
    """What is certainly wrong with one forward pass and its loss."""
    facts = collector.signals.facts
    kind = kind_of(one.criterion) or kind_in_graph(one.loss, one.outputs)
    outputs, targets = aligned(one.outputs, one.targets)
    if kind:
        facts.setdefault("loss_kind", kind)
    found = unscaled_inputs(one.inputs, collector.model) + activation(outputs, kind) + labels(outputs, targets, kind)
    found += shapes(outputs, targets, one.criterion or kind) + reach(outputs, targets, kind)
    found += unscaled_targets(targets, kind)
    facts["seen"] = facts.get("seen", 0) + 1
    for each in found:
        if each.cause in SCALES:  # one batch may be odd: most must be so
            facts[each.cause] = facts.get(each.cause, 0) + 1
            if facts[each.cause] < 2 or facts[each.cause] < 0.6 * facts["seen"]:
                continue
        yield claim_of(each, collector.step)


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
    uphill = all(group.get("maximize", False) for t in collector.tracked for group in t.optimizer.param_groups)
    away = cosine > CERTAIN if uphill else cosine < -CERTAIN
    facts["away"] = facts.get("away", 0) + 1 if away else -1000
    if facts["away"] >= 3:
        yield Claim("sign-flipped", "critical", (Evidence("error_cosine", cosine, 0.0),), first_step=0, certain=True)
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


FEW = 8  # numbers, of which a cosine says nothing
EXACT = 0.99  # cosine beyond which a gradient is that of a known loss
MOST = 10.0  # times the error, beyond which it is not: that of a probability which is clamped, say
SCALES = ("loss-sum", "input-unscaled", "target-unscaled")


def gentle(claim: Claim, r: Reading) -> Claim:
    """A fact of scale is no more than good to know where the training does well all the same."""
    if claim.cause in SCALES and r.steps >= 8 and r.now > 0.5 and not oscillating(r):
        return replace(claim, severity="info")
    return claim


def claim_of(found: Found, step: int) -> Claim:
    """An exact check's result as a claim."""
    evidence = tuple(
        Evidence(name, value) for name, value in found.evidence.items() if isinstance(value, int | float | str)
    )
    severity = "critical" if found.cause in WHOLE_FAULT else "warning"
    details = tuple((language, found.text(language)) for language in LANGUAGES)
    return Claim(found.cause, severity, evidence, found.where, step, certain=True, details=details)


def modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules by name."""
    return list(cast("Any", model).named_modules())


@torch.no_grad()
def gains(model: nn.Module) -> dict[str, float]:
    """For each linear or convolutional layer the size of its weights times the root of its number of inputs: near 1
    where the layer keeps the variance of what enters it."""
    found: dict[str, float] = {}
    for name, part in modules(model):
        weight: Any = getattr(part, "weight", None)
        if isinstance(part, WEIGHTED) and isinstance(weight, Tensor) and weight.ndim > 1 and weight.numel() > 1:
            w = local(weight).detach().float()
            found[plain(f"{name}.weight")] = float(w.square().mean().sqrt()) * (w[0].numel() ** 0.5)
    return found


@torch.no_grad()
def symmetric(model: nn.Module) -> list[str]:
    """Layers whose units begin as one and will stay one: all rows of the weights are the same, and all columns of the
    next layer's."""
    layers = [(plain(f"{n}.weight"), local(m.weight).detach()) for n, m in modules(model) if isinstance(m, nn.Linear)]
    found: list[str] = []
    for (name, w), (_, following) in itertools.pairwise(layers):
        same = len(w) > 1 and bool((w == w[0]).all())
        if same and following.shape[1] == len(w) and bool((following == following[:, :1]).all()) and w.shape[0] > 1:
            found.append(name)
    return found


def narrow(model: nn.Module) -> dict[str, int]:
    """Hidden layers of one or two units, fewer than the model's inputs, whose outputs enter the next layer."""
    layers = [(plain(name), m.in_features, m.out_features) for name, m in modules(model) if isinstance(m, nn.Linear)]
    pairs = itertools.pairwise(layers)
    return {name: width for (name, _, width), (_, enters, _) in pairs if width <= 2 and width == enters < layers[0][1]}


def decay(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[float, bool]:
    """The largest weight decay, and whether it acts on weights themselves and not through the gradient."""
    found = [(float(group.get("weight_decay", 0.0)), each, group) for each in optimizers for group in each.param_groups]
    largest, optimizer, group = max(found, key=lambda item: item[0])
    apart = optimizer.decoupled(group) if isinstance(optimizer, Ours) else type(optimizer).__name__ in ("AdamW", "Muon")
    return largest, bool(group.get("decoupled_weight_decay", False) or apart)


def normalised(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the length of an optimizer's steps does not depend on that of its gradients, as with Adam."""
    keys = {key for group in optimizer.param_groups for key in group}
    return not ({"dampening", "nesterov"} & keys) and bool({"betas", "alpha", "rho", "eps"} & keys)
