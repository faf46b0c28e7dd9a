"""What goes into a state_dict, and how one finds its way back to the parameters."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.engine import eight_bit, states
from surefoot.engine.eight_bit import SCALE
from surefoot.engine.states import AVERAGE, MASTER
from surefoot.errors import UserError, unknown
from surefoot.rules.rule import Rule

if TYPE_CHECKING:
    from surefoot.optim.optimizer import Optimizer

SLOW = "slow"  # the key of Lookahead's weights in a parameter's state
LOOKAHEAD = "lookahead_step"  # and of its count of steps in a group
CLIP = "clip"  # the key of what the clip function has learned, beside state and param_groups
PER_PARAMETER = ("lr_factors", "decay_factors")  # a group's own keys: one number for each of its parameters
# how a group runs is not what a checkpoint says, but what the constructor was told
OWN = (
    "params", "param_names", *PER_PARAMETER,
    "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay",
)  # fmt: skip


def saved(optimizer: Optimizer, state_dict: Mapping[str, Any], format: str) -> dict[str, Any]:
    """A copy of a state_dict that shares no memory with the optimizer."""
    torchs = format == "torch"

    numbers = {"step", *(name for rule in optimizer.rules for name in rule.numbers)}

    def copied(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.deepcopy(value)
        value = value.detach()
        return value.float() if torchs and name in numbers and value.dtype == torch.float64 else value.clone()

    def shown(kept: Mapping[str, Any]) -> Mapping[str, Any]:
        if not torchs:
            return kept
        scales = [name + SCALE for name in kept if states.in_8_bits(kept[name])]
        plain = {name: value for name, value in kept.items() if name not in (AVERAGE, MASTER, SLOW, *scales)}
        return {
            name: eight_bit.decode(v, kept[name + SCALE]) if states.in_8_bits(v) else v for name, v in plain.items()
        }

    state = {
        key: {name: copied(name, value) for name, value in shown(kept).items()}
        for key, kept in state_dict["state"].items()
    }
    left_out = (*PER_PARAMETER, LOOKAHEAD) if torchs else ()
    groups = [
        {name: copied("", value) for name, value in group.items() if name not in left_out}
        for group in state_dict["param_groups"]
    ]
    clip = None if torchs else learner(optimizer)
    learned = {} if clip is None else {CLIP: {type(clip).__name__: copy.deepcopy(clip.state_dict())}}
    return {**state_dict, "state": state, "param_groups": groups, **learned}


def matched(optimizer: Optimizer, state_dict: Mapping[str, Any], keep: Sequence[str]) -> dict[str, Any]:
    """A saved state as the optimizer's own: its `state` and `param_groups`, checked, and copied.

    Raises:
        UserError: where it is of another algorithm, of other parameters or of other shapes
    """
    if not (isinstance(state_dict.get("state"), Mapping) and isinstance(state_dict.get("param_groups"), list)):
        raise UserError("this is no optimizer's state_dict: it must have state and param_groups")
    learn(copy.deepcopy(learner(optimizer)), state_dict)
    groups, theirs = optimizer.param_groups, list(state_dict["param_groups"])
    for name in keep:
        if name not in optimizer.defaults:
            raise unknown("hyper-parameter to keep", name, optimizer.defaults)
    by_name = all("param_names" in group for group in (*groups, *theirs))
    ids, sources = _by_name(groups, theirs) if by_name else _by_position(groups, theirs)

    loaded: list[dict[str, Any]] = []
    for group, source in zip(groups, sources, strict=True):
        _check_algorithm(optimizer, source)
        kept = {name: group[name] for name in (*OWN, *keep) if name in group}
        saved_group = {name: copy.deepcopy(value) for name, value in source.items() if name not in (*OWN, "params")}
        loaded.append({**group, **saved_group, **kept})

    known = {name for rule in optimizer.rules for name in (*rule.states, *rule.numbers)} | {*optimizer.beside}
    state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    for group in loaded:
        names = group.get("param_names") or [f"parameter {i}" for i in range(len(group["params"]))]
        rule = optimizer.rule({**optimizer.defaults, **group})
        maker = optimizer.preconditioner({**optimizer.defaults, **group}) if rule.given else None
        for p, name in zip(group["params"], names, strict=True):
            if ids[p] in state_dict["state"]:
                shapes = dict(maker.shapes(p, group)) if maker is not None else {}
                owner, found = type(optimizer).__name__, state_dict["state"][ids[p]]
                state[p] = _state(owner, rule, known | shapes.keys(), shapes, p, name, found)
    claimed = set(ids.values())
    state.update({key: copy.deepcopy(value) for key, value in state_dict["state"].items() if key not in claimed})
    return {"state": state, "param_groups": loaded}


def learner(optimizer: Optimizer) -> Any:
    """The optimizer's clip function, if that has a state of its own, such as `ZClip`; None otherwise."""
    function = getattr(optimizer.options.clip_norm, "max_norm", None)
    return function if hasattr(function, "state_dict") and hasattr(function, "load_state_dict") else None


def learn(function: Any, state_dict: Mapping[str, Any]) -> None:
    """Let a clip function take up what one of its kind had learned; how to clip is not what a checkpoint says."""
    found, kind = state_dict.get(CLIP), type(function).__name__
    if function is not None and isinstance(found, Mapping) and kind in found:
        function.load_state_dict(found[kind])


Group = dict[str, Any]


def _by_name(groups: Sequence[Group], theirs: Sequence[Group]) -> tuple[dict[Tensor, Any], list[Group]]:
    """For each parameter its id in the checkpoint, and for each group the saved group that its parameters were in."""
    saved_at = {
        plain_name(name): (key, group)
        for group in theirs
        for name, key in zip(group["param_names"], group["params"], strict=True)
    }
    ours = {
        plain_name(name): p for group in groups for name, p in zip(group["param_names"], group["params"], strict=True)
    }
    for what, names in (("lacks", ours.keys() - saved_at.keys()), ("has besides", saved_at.keys() - ours.keys())):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"the checkpoint is of other parameters: it {what} {', '.join(sorted(names)[:3])}{more}")
    sources: list[Group] = []
    for i, group in enumerate(groups):
        found = [saved_at[plain_name(name)][1] for name in group["param_names"]]
        if any(source is not found[0] for source in found):
            raise UserError(
                f"the parameters of group {i} were in several groups of the checkpoint: build the same groups"
            )
        sources.append(found[0] if found else group)
    return {p: saved_at[name][0] for name, p in ours.items()}, sources


def _by_position(groups: Sequence[Group], theirs: Sequence[Group]) -> tuple[dict[Tensor, Any], list[Group]]:
    ours, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, theirs))
    if ours != saved_sizes:
        raise UserError(
            f"the checkpoint has parameter groups of {saved_sizes} parameters, the optimizer of {ours}: build the same "
            "groups, or give both sides named parameters"
        )
    pairs = zip(groups, theirs, strict=True)
    return {p: key for a, b in pairs for p, key in zip(a["params"], b["params"], strict=True)}, list(theirs)


def plain_name(name: str) -> str:
    """A name without what torch.compile puts before it."""
    return name.replace("_orig_mod.", "")


def _check_algorithm(optimizer: Optimizer, source: Group) -> None:
    """Every version of an algorithm has saved all of its hyper-parameters; what lacks one is another algorithm's."""
    own = (*OWN, "maximize", *optimizer.ours)
    lacking = [name for name in optimizer.defaults if name not in source and name not in own]
    if lacking:
        has = ", ".join(sorted(str(name) for name in source.keys() - {"params", "param_names"}))
        raise UserError(
            f"the checkpoint is not of {type(optimizer).__name__}: its groups have no {lacking[0]}, but {has}"
        )


def _state(
    owner: str,
    rule: Rule,
    known: set[str],
    shapes: Mapping[str, tuple[int, ...]],
    p: Tensor,
    name: str,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """The saved state of one parameter, laid out in memory as the parameter, in the dtype it was saved in.

    Numbers are in double precision, on the CPU.
    """
    shapes = {**shapes, **_coded(found, p)}
    strange = found.keys() - known - shapes.keys() - {"step", AVERAGE, MASTER, SLOW}
    if strange:
        raise UserError(
            f"the checkpoint is not of {owner}: for {name} it holds {', '.join(sorted(strange))}; {owner} keeps "
            f"{', '.join(sorted(known)) or 'nothing'}"
        )
    missing = [each for each in (*rule.states, *rule.numbers, "step") if each not in found]
    if rule.counted and found and missing:
        raise UserError(f"the checkpoint is not of {rule.name}: for {name} it holds no {', '.join(missing)}")
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if key in rule.numbers:
            kept[key] = _number(value, f"{key} of {name}")
        elif not isinstance(value, Tensor):
            kept[key] = copy.deepcopy(value)
        elif key == "step":
            kept[key] = value.detach().cpu().clone()
        elif value.shape != shapes.get(key, p.shape):
            saved_shape, shape = tuple(value.shape), tuple(shapes.get(key, p.shape))
            wanted = f"it must be {shape}" if key in shapes else f"the parameter {shape}"
            raise UserError(f"the checkpoint does not fit: {key} of {name} has shape {saved_shape}, {wanted}")
        elif key in shapes:
            kept[key] = value.detach().to(p.device, copy=True)
        else:
            kept[key] = torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value.detach())
    return kept


def _number(value: object, what: str) -> Tensor:
    """A number that goes on from step to step, as ours are kept; some versions of torch saved plain ones."""
    if not (isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)):
        raise UserError(f"the checkpoint does not fit: {what} must be a number")
    return torch.as_tensor(value).detach().to("cpu", torch.float64, copy=True).reshape(())


def _coded(found: Mapping[str, Any], p: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of what belongs to states in 8 bits."""
    blocks = -(-p.numel() // eight_bit.BLOCK)
    return {name + SCALE: (blocks,) for name, value in found.items() if states.in_8_bits(value)}
