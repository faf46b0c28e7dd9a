"""The base of every surefoot optimizer: a torch.optim.Optimizer whose step is the engine's."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Real
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled  # pyright: ignore[reportPrivateUsage]
from torch.optim.optimizer import (
    ParamsT,
    _global_optimizer_post_hooks,  # pyright: ignore[reportPrivateUsage]
    _global_optimizer_pre_hooks,  # pyright: ignore[reportPrivateUsage]
)

from surefoot.engine.engine import Engine
from surefoot.engine.options import NAMES, Given, Options
from surefoot.engine.report import Report
from surefoot.engine.states import AVERAGE
from surefoot.engine.update import Update
from surefoot.errors import UserError, unknown
from surefoot.optim import loading
from surefoot.optim.loading import PER_PARAMETER
from surefoot.rules.rule import Rule

Group = dict[str, Any]
FLAGS = {
    "maximize", "foreach", "fused", "differentiable", "capturable", "nesterov", "amsgrad", "centered",
    "decoupled_weight_decay",
}  # fmt: skip
# what torch's schedulers and SWA write into groups
SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
OPTIONS = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Options, name)) for name in NAMES]
HOOKS = (
    "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks",
)  # fmt: skip


def options(arguments: dict[str, Any]) -> dict[str, Any]:
    """The defaults of the groups, from a constructor's `locals()`: what it takes but parameters and engine options."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "engine", "__class__")}


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


def _hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """torch's wrapper, which calls hooks and tells a profiler; left out where nobody listens.

    It takes 0.2 ms after a backward pass that has emptied the caches, as much as 100 tensors' updates.
    """
    wrapped = torch.optim.Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        listened = own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks or _profiler_enabled()
        return (wrapped if listened else step)(self, *args, **kwargs)

    call.hooked = True  # pyright: ignore[reportAttributeAccessIssue]  # torch wraps those that do not say so
    return call


_add_param_group = _light("add_param_group")
_state_dict = _light("state_dict")


class Optimizer(torch.optim.Optimizer):
    """What all optimizers share: groups, their checks, the engine's options, and the step.

    A subclass names its hyper-parameters in `defaults` and says in `rule` which update rule a group takes. Its
    constructor takes the engine's options as `**engine` and hands them on.

    positive: hyper-parameters that must be 0 or more
    pairs: hyper-parameters that must be two numbers, each at least 0 and less than 1
    rules: every rule that `rule` may return
    last: the report of the last step; None before the first
    """

    positive: ClassVar[tuple[str, ...]] = ("lr", "eps", "weight_decay")
    pairs: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[tuple[Rule, ...]] = ()

    _step_supports_amp_scaling = True  # GradScaler sets grad_scale and found_inf, and `step` reads them

    zero_grad = _light("zero_grad")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = inspect.signature(cls.__init__).parameters.values()  # help() and create() are to see the options by name
        shown = [p for p in own if p.name != "self" and p.kind != inspect.Parameter.VAR_KEYWORD]
        cls.__signature__ = inspect.Signature([*shown, *OPTIONS])

    def __init__(self, params: ParamsT, defaults: dict[str, Any], engine: Given) -> None:
        self.options = Options.of(type(self).__name__, engine, inspect.signature(type(self)).parameters)
        self.last: Report | None = None
        self._engine = Engine()
        self._swapped = False
        self._check(defaults)
        super().__init__(params, defaults)

    def rule(self, group: Group) -> Rule:
        """The update rule for a group with these options."""
        raise NotImplementedError

    def decoupled(self, group: Group) -> bool:
        """Whether weight decay acts on the parameter itself (AdamW) instead of through the gradient (L2)."""
        return False

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not set is taken from the defaults.

        Beside the hyper-parameters a group may have `lr_factors` and `decay_factors`, one number for each of its
        parameters, by which their rate and decay are multiplied, and keys of your own.
        """
        if isinstance(cast(Any, param_group), dict):  # else torch says what it wants
            self._check_keys(param_group)
            self._check({**self.defaults, **param_group})
        _add_param_group(self, param_group)
        self._check_factors(self.param_groups[-1])

    @_hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient. Returns what `closure`, if given, returned."""
        self._refuse_swapped()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            updates = [self._update(group) for group in self.param_groups]
            if overflow is not None and float(overflow):
                self.last = self._engine.skip(updates, self.options, "the loss scaler found an infinity or a NaN")
            else:
                self.last = self._engine.step(updates, self.state, self.options, 1.0 if scale is None else float(scale))
        return loss

    @contextmanager
    def averaged(self) -> Generator[None, None, None]:
        """Put the averages of `ema` in the place of the parameters, and the parameters back at the end.

        >>> import torch, surefoot as sf
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> opt = sf.optim.SGD([w], lr=1.0, ema=0.75)
        >>> w.grad = torch.tensor([-4.0]); opt.step()
        >>> with opt.averaged(): print(w.item())
        1.0
        >>> w.item()
        4.0
        """
        if self.options.ema is None:
            raise UserError("averaged(): no averages are kept: build the optimizer with ema=0.999, say")
        self._refuse_swapped()
        pairs = [(p, kept[AVERAGE]) for p, kept in self.state.items() if AVERAGE in kept]
        self._swapped = True
        own = [p.detach().clone() for p, _ in pairs]
        try:
            _copy([average for _, average in pairs], pairs)
            yield
        finally:
            _copy(own, pairs)
            self._swapped = False

    def state_dict(self, format: Literal["surefoot", "torch"] = "surefoot") -> dict[str, Any]:
        """A copy of the state, in torch.optim's layout.

        Args:
            format: "torch" leaves out what torch.optim has no place for: the averages of `ema`
        """
        if format not in ("surefoot", "torch"):
            raise unknown("format of state_dict", format, ("surefoot", "torch"))
        self._refuse_swapped()
        return loading.saved(_state_dict(self), format)

    def load_state_dict(self, state_dict: dict[str, Any], keep: Iterable[str] = ()) -> None:
        """Take up a state saved by this class or by its twin in torch.optim; one that does not fit changes nothing.

        Where both sides name their parameters, states go by name; else by position. Shapes must agree. States keep the
        dtype they were saved in.

        Args:
            state_dict: what `state_dict()` returned
            keep: hyper-parameters that stay as they are here, such as "lr"; all others become those saved

        Raises:
            UserError: naming what does not fit
        """
        self._refuse_swapped()
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        self.__setstate__(loading.matched(self, state_dict, tuple(keep)))
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_swapped()
        return {**super().__getstate__(), "options": self.options, **{name: getattr(self, name) for name in HOOKS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a pickled or loaded state; refuse it before anything changes."""
        defaults = state.get("defaults") or self.defaults
        for group in state["param_groups"]:
            for name, value in defaults.items():
                group.setdefault(name, value)
            self._check(group)
        super().__setstate__(state)
        self._engine, self._swapped, self.last = Engine(), False, None
        for kept in self.state.values():
            if "step" in kept and not isinstance(kept["step"], Tensor):
                kept["step"] = torch.tensor(float(kept["step"]))

    def __repr__(self) -> str:
        chosen = {name: getattr(self.options, name) for name in NAMES}
        lines = [f"    {name}: {value}\n" for name, value in chosen.items() if value != getattr(Options, name)]
        return super().__repr__().removesuffix(")") + ("All groups\n" if lines else "") + "".join(lines) + ")"

    def _refuse_swapped(self) -> None:
        if self._swapped:
            raise UserError("the parameters hold their averages: leave `with optimizer.averaged()` first")

    def _update(self, group: Group) -> Update:
        rule = self.rule(group)
        return Update(
            rule,
            group["params"],
            group.get("param_names"),
            {name: _value(group, name) for name in (*rule.hyper, *rule.start.values())},
            _value(group, "lr"),
            _value(group, "weight_decay"),
            self.decoupled(group),
            group["maximize"],
            group["differentiable"],
            *(group.get(name, ()) for name in PER_PARAMETER),
        )

    def _check_keys(self, group: Group) -> None:
        """Refuse misspelt keys; keys of the user's own may be anything else."""
        known = {*self.defaults, "params", "param_names", *PER_PARAMETER}
        for key in group.keys() - known - {*SCHEDULERS}:
            if key in NAMES:
                self._check_option(key, group[key])
            elif get_close_matches(str(key).lower(), known, cutoff=0.8):
                raise unknown("key of a parameter group", str(key), known)

    def _check_option(self, name: str, value: object) -> None:
        """Refuse an engine option in a group, unless it is the one in force.

        ZeroRedundancyOptimizer gives each process some of the parameters, and repeats in each group what it has given
        to the constructor: that is how it can be told.
        """
        owner = type(self).__name__
        if getattr(Options.of(owner, {name: value}, ()), name) != getattr(self.options, name):
            raise UserError(f"{name} is for the whole optimizer: give it to {owner}, not to a group")
        if name in ("clip_norm", "skip_nonfinite") and value:
            raise UserError(
                f"{name} needs the whole gradient: it must not be in a parameter group, nor be given to "
                "ZeroRedundancyOptimizer, where each process sees only its own part: clip with "
                "torch.nn.utils.clip_grad_norm_ before the step"
            )

    def _check_factors(self, group: Group) -> None:
        for name in PER_PARAMETER:
            if name in group and len(group[name]) != len(group["params"]):
                self.param_groups.pop()
                wanted, found = len(group["params"]), len(group[name])
                raise UserError(
                    f"{name} must have a number for each of the group's {wanted} parameters; it has {found}"
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


def is_number(value: object) -> bool:
    """Whether it is a number, or a tensor of one."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_pair(value: object) -> bool:
    numbers = cast("tuple[object, ...]", value)
    return isinstance(value, tuple | list) and len(numbers) == 2 and all(map(is_number, numbers))


def _copy(values: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Write values into the parameters of (parameter, average) pairs."""
    with torch.no_grad():
        for value, (p, _) in zip(values, pairs, strict=True):
            p.copy_(value)


def _value(group: Group, name: str) -> Any:
    """A hyper-parameter by the name that rules use; `beta1` and `beta2` lie in `betas`."""
    value = group["betas"][int(name[-1]) - 1] if name.startswith("beta") else group[name]
    return value.reshape(()) if isinstance(value, Tensor) else value
