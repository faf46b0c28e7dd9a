"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from surefoot.errors import unknown
from surefoot.optim.adabelief import AdaBelief
from surefoot.optim.adadelta import Adadelta
from surefoot.optim.adafactor import Adafactor
from surefoot.optim.adagrad import Adagrad
from surefoot.optim.adam import Adam, AdamW
from surefoot.optim.adamax import Adamax
from surefoot.optim.adan import Adan
from surefoot.optim.ademamix import AdEMAMix
from surefoot.optim.adopt import ADOPT
from surefoot.optim.asgd import ASGD
from surefoot.optim.lamb import LAMB, LARS
from surefoot.optim.laprop import LaProp
from surefoot.optim.lion import Lion, Signum
from surefoot.optim.mars import MARS
from surefoot.optim.muon import Muon, hidden
from surefoot.optim.nadam import NAdam, NAdamW
from surefoot.optim.optimizer import Optimizer
from surefoot.optim.policy import Groups, param_groups
from surefoot.optim.prodigy import Prodigy
from surefoot.optim.radam import RAdam
from surefoot.optim.rmsprop import RMSprop
from surefoot.optim.rprop import Rprop
from surefoot.optim.schedule_free import ScheduleFree, ScheduleFreeAdamW, ScheduleFreeSGD
from surefoot.optim.sgd import SGD
from surefoot.optim.soap import SOAP, Shampoo
from surefoot.optim.sparse_adam import SparseAdam
from surefoot.optim.stable_adamw import StableAdamW
from surefoot.optim.yogi import Yogi


@dataclass(frozen=True)
class Entry:
    """A name of the registry: the class behind it, the usual learning rate, and what the name sets besides.

    policy: what makes parameter groups of a model, where the optimizer needs more than one
    """

    factory: type[Any]  # of Optimizer: their constructors differ
    lr: float
    preset: Mapping[str, Any] = field(default_factory=dict[str, Any])
    policy: Callable[..., Groups] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the class, with the default that `create` uses."""
        return {**_defaults(self.factory, "params"), "lr": self.lr, **self.preset}

    @property
    def policies(self) -> dict[str, Any]:
        """Every option of the policy that makes a model's groups, with its default."""
        return {} if self.policy is None else _defaults(self.policy, "model")


def _defaults(function: Callable[..., Any], first: str) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name != first}


# rates: the usual first try (the guide, section 4: 0.001 for Adam, 0.01 for SGD), not torch's defaults
REGISTRY: dict[str, Entry] = {
    "sgd": Entry(SGD, 1e-2),
    "sgd-momentum": Entry(SGD, 1e-2, {"momentum": 0.9}),
    "adam": Entry(Adam, 1e-3),
    "adamw": Entry(AdamW, 1e-3),
    "amsgrad": Entry(AdamW, 1e-3, {"amsgrad": True}),
    "rmsprop": Entry(RMSprop, 1e-3),
    "adagrad": Entry(Adagrad, 1e-2),
    "adadelta": Entry(Adadelta, 1.0),
    "adamax": Entry(Adamax, 2e-3),
    "nadam": Entry(NAdam, 1e-3),
    "nadamw": Entry(NAdamW, 1e-3),
    "radam": Entry(RAdam, 1e-3),
    "asgd": Entry(ASGD, 1e-2),
    "rprop": Entry(Rprop, 1e-3),
    "lion": Entry(Lion, 3e-4),
    "signum": Entry(Signum, 3e-4),
    "adabelief": Entry(AdaBelief, 1e-3),
    "yogi": Entry(Yogi, 1e-2),
    "adafactor": Entry(Adafactor, 1e-2),
    "sparse-adam": Entry(SparseAdam, 1e-3),
    "muon": Entry(Muon, 2e-2, policy=hidden),
    "soap": Entry(SOAP, 3e-3),
    "shampoo": Entry(Shampoo, 1e-3),
    "lbfgs": Entry(torch.optim.LBFGS, 1.0),
    "adan": Entry(Adan, 1e-3),
    "adopt": Entry(ADOPT, 1e-3),
    "ademamix": Entry(AdEMAMix, 1e-3),
    "laprop": Entry(LaProp, 4e-4),
    "mars": Entry(MARS, 3e-3),
    "stable-adamw": Entry(StableAdamW, 1e-3),
    "lamb": Entry(LAMB, 1e-2),
    "lars": Entry(LARS, 1.0),
    "prodigy": Entry(Prodigy, 1.0),
    "schedule-free-sgd": Entry(ScheduleFreeSGD, 0.3),
    "schedule-free-adamw": Entry(ScheduleFreeAdamW, 2.5e-3),
}


def names() -> list[str]:
    """The names that `create` knows.

    >>> names()
    ['adabelief', 'adadelta', 'adafactor', 'adagrad', 'adam', ..., 'sparse-adam', 'stable-adamw', 'yogi']
    """
    return sorted(REGISTRY)


def entry(name: str) -> Entry:
    """Look a name up; an unknown one is refused with the nearest that is known."""
    if name not in REGISTRY:
        raise unknown("optimizer", name, REGISTRY)
    return REGISTRY[name]


def create(name: str, model: nn.Module | Iterable[Any], *, show: bool = False, **options: Any) -> Optimizer:
    """An optimizer by name, for a model or for an iterable of parameters or groups.

    Args:
        name: one of `names()`
        model: a module, whose parameters are taken with their names, or whatever torch.optim takes. Of a module, "muon"
            makes groups: hidden matrices, and the rest for AdamW (`adamw_lr=3e-4`, `split={"*.qkv.weight": 3}`)
        show: print which parameters are in which group
        options: keyword arguments of the optimizer's class; what is not given is as the registry says

    Raises:
        UserError: for an unknown name or option (with a suggestion), or a value out of range

    >>> import torch, surefoot as sf
    >>> opt = sf.optim.create("sgd-momentum", torch.nn.Linear(3, 1), lr=0.05)
    >>> opt.param_groups[0]["momentum"], opt.param_groups[0]["param_names"]
    (0.9, ['weight', 'bias'])
    """
    chosen = entry(name)
    known = {**chosen.options, **(chosen.policies if isinstance(model, nn.Module) else {})}
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    policy = {option: options.pop(option) for option in chosen.policies if option in options}
    params = model
    if isinstance(model, nn.Module):
        params = model.named_parameters() if chosen.policy is None else chosen.policy(model, **policy)
        if show:
            print(param_groups(model, no_decay="") if chosen.policy is None else params)
    optimizer = chosen.factory(params, **{"lr": chosen.lr, **chosen.preset, **options})
    if isinstance(optimizer, ScheduleFree) and isinstance(model, nn.Module):
        optimizer.guard(model)
    return optimizer
