"""The base of every surefoot optimizer: a torch.optim.Optimizer whose step is the engine's."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from surefoot.engine import reference
from surefoot.engine.update import Update
from surefoot.errors import UserError
from surefoot.rules.rule import Rule

Group = dict[str, Any]
FLAGS = {
    "maximize", "foreach", "fused", "differentiable", "capturable", "nesterov", "amsgrad", "centered",
    "decoupled_weight_decay",
}  # fmt: skip


def options(arguments: dict[str, Any]) -> dict[str, Any]:
    """The defaults of the groups, from a constructor's `locals()`: all its arguments but the parameters."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}


def _light(method: str) -> Callable[..., Any]:
    """torch's own method, without the 1.1 s import of torch._dynamo that its decorator does at the first call.

    Where torch._dynamo is loaded already, the decorated method runs, so nothing changes for torch.compile.
    """
    decorated = getattr(torch.optim.Optimizer, method)
    plain = inspect.unwrap(decorated)

    @functools.wraps(plain)
    def call(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        return (decorated if "torch._dynamo" in sys.modules else plain)(self, *args, **kwargs)

    return call


_add_param_group = _light("add_param_group")


class Optimizer(torch.optim.Optimizer):
    """What all optimizers share: groups, their checks, and the step.

    A subclass names its hyper-parameters in `defaults` and says in `rule` which update rule a group takes.

    positive: hyper-parameters that must be 0 or more
    pairs: hyper-parameters that must be two numbers, each at least 0 and less than 1
    """

    positive: ClassVar[tuple[str, ...]] = ("lr", "eps", "weight_decay")
    pairs: ClassVar[tuple[str, ...]] = ()

    zero_grad = _light("zero_grad")
    state_dict = _light("state_dict")
    load_state_dict = _light("load_state_dict")

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._check(defaults)
        super().__init__(params, defaults)

    def rule(self, group: Group) -> Rule:
        """The update rule for a group with these options."""
        raise NotImplementedError

    def decoupled(self, group: Group) -> bool:
        """Whether weight decay acts on the parameter itself (AdamW) instead of through the gradient (L2)."""
        return False

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not set is taken from the defaults."""
        if isinstance(cast(Any, param_group), dict):  # else torch says what it wants
            self._check({**self.defaults, **param_group})
        _add_param_group(self, param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient. Returns what `closure`, if given, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            updates = [self._update(group) for group in self.param_groups]  # all are checked before any moves
            for update in updates:
                reference.run(update)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a pickled or loaded state, older torch checkpoints included; refuse it before anything changes."""
        defaults = state.get("defaults") or self.defaults
        for group in state["param_groups"]:
            for name, value in defaults.items():
                group.setdefault(name, value)
            self._check(group)
        super().__setstate__(state)
        for kept in self.state.values():
            if "step" in kept and not isinstance(kept["step"], Tensor):
                kept["step"] = torch.tensor(float(kept["step"]))

    def _update(self, group: Group) -> Update:
        rule = self.rule(group)
        params = [p for p in group["params"] if p.grad is not None]
        grads: list[Tensor] = [p.grad for p in params]
        refuse_sparse(grads)
        return Update(
            rule,
            params,
            grads,
            [self.state[p] for p in params] if rule.states or rule.counted else [{} for _ in params],
            {name: _value(group, name) for name in (*rule.hyper, *rule.start.values())},
            _value(group, "lr"),
            _value(group, "weight_decay"),
            self.decoupled(group),
            group["maximize"],
            group["differentiable"],
        )

    def _check(self, group: Group) -> None:
        """Refuse hyper-parameters out of range, and options that are not there yet."""
        for name in self.positive:
            if not is_number(group[name]):
                raise self._refusal(name, group[name], "it must be a number, or a tensor of one element")
            if not group[name] >= 0:
                raise self._refusal(name, group[name], "it must be 0 or more")
        for name in self.pairs:
            if not (_is_pair(group[name]) and all(0 <= x < 1 for x in group[name])):
                raise self._refusal(name, group[name], "it must be two numbers from 0 to below 1")
        for name in FLAGS & group.keys():
            if not (isinstance(group[name], bool) or (name in ("foreach", "fused") and group[name] is None)):
                raise self._refusal(name, group[name], "it must be True or False")
        if group.get("capturable"):
            raise self._refusal("capturable", True, "CUDA graphs are not supported yet, leave it False")

    def _refusal(self, name: str, value: object, why: str) -> UserError:
        return UserError(f"{type(self).__name__}: {name}={value!r}: {why}")


def refuse_sparse(grads: Iterable[Tensor]) -> None:
    """Refuse gradients that are not dense."""
    if any(g.layout != torch.strided for g in grads):
        raise UserError("sparse gradients are not supported yet: build the embedding with sparse=False")


def is_number(value: object) -> bool:
    """Whether it is a number, or a tensor of one."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_pair(value: object) -> bool:
    numbers = cast("tuple[object, ...]", value)
    return isinstance(value, tuple | list) and len(numbers) == 2 and all(map(is_number, numbers))


def _value(group: Group, name: str) -> Any:
    """A hyper-parameter by the name that rules use; `beta1` and `beta2` lie in `betas`."""
    value = group["betas"][int(name[-1]) - 1] if name.startswith("beta") else group[name]
    return value.reshape(()) if isinstance(value, Tensor) else value
