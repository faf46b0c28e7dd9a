"""What a parameter group may hold besides hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from surefoot.engine.options import NAMES, Options
from surefoot.errors import UserError, unknown
from surefoot.optim.loading import PER_PARAMETER

# what torch's schedulers and SWA write into groups; ours write initial_ and the name of what they drive
SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")


def check_keys(owner: str, group: Mapping[str, Any], defaults: Mapping[str, Any], options: Options) -> None:
    """Refuse misspelt keys; keys of the user's own may be anything else."""
    known = {*defaults, "params", "param_names", *PER_PARAMETER}
    for key in group.keys() - known - {*SCHEDULERS} - {f"initial_{name}" for name in known}:
        if key in NAMES:
            _check_option(owner, key, group[key], options)
        elif get_close_matches(str(key).lower(), known, cutoff=0.8):
            raise unknown("key of a parameter group", str(key), known)


def check_factors(group: Mapping[str, Any]) -> None:
    """Refuse factors of which there is not one for each parameter."""
    for name in PER_PARAMETER:
        if name in group and len(group[name]) != len(group["params"]):
            wanted, found = len(group["params"]), len(group[name])
            raise UserError(f"{name} must have a number for each of the group's {wanted} parameters; it has {found}")


def _check_option(owner: str, name: str, value: object, options: Options) -> None:
    """Refuse an engine option in a group, unless it is the one in force.

    ZeroRedundancyOptimizer gives each process some of the parameters, and repeats in each group what it has given to
    the constructor: that is how it can be told.
    """
    try:
        repeated = getattr(Options.of(owner, {name: value}, ()), name) == getattr(options, name)
    except UserError:  # it is no option's value at all, and has no place here anyway
        repeated = False
    if not repeated:
        raise UserError(f"{name} is for the whole optimizer: give it to {owner}, not to a group")
    if name in ("clip_norm", "skip_nonfinite") and value:
        raise UserError(
            f"{name} needs the whole gradient: it must not be in a parameter group, nor be given to "
            "ZeroRedundancyOptimizer, where each process sees only its own part: clip with "
            "torch.nn.utils.clip_grad_norm_ before the step"
        )
