"""The base of every surefoot optimizer: a torch.optim.Optimizer whose step is the engine's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from surefoot.engine.engine import Engine
from surefoot.engine.options import NAMES, Given, Options
from surefoot.engine.precondition import Preconditioner
from surefoot.engine.report import Report
from surefoot.engine.update import Update
from surefoot.errors import UserError, unknown
from surefoot.optim import groups, loading
from surefoot.optim.averaging import Averaging
from surefoot.optim.backward import StepInBackward
from surefoot.optim.light import hooked, light
from surefoot.optim.loading import PER_PARAMETER
from surefoot.rules.rule import Rule

Group = dict[str, Any]
FLAGS = {
    "maximize", "foreach", "fused", "differentiable", "capturable", "nesterov", "amsgrad", "centered",
    "decoupled_weight_decay", "decouple", "use_bias_correction", "safeguard_warmup",
}  # fmt: skip
WORDS = {2: "two", 3: "three"}
OPTIONS = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Options, name)) for name in NAMES]
HOOKS = (
    "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks",
)  # fmt: skip


def options(arguments: dict[str, Any]) -> dict[str, Any]:
    """The defaults of the groups, from a constructor's `locals()`: what it takes but parameters and engine options."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "engine", "__class__")}


_add_param_group = light("add_param_group")
_state_dict = light("state_dict")


class Optimizer(Averaging):
    """What all optimizers share: groups, their checks, the engine's options, and the step.

    A subclass names its hyper-parameters in `defaults` and says in `rule` which update rule a group takes. Its
    constructor takes the engine's options as `**engine` and hands them on.

    positive: hyper-parameters that must be 0 or more
    shares: hyper-parameters that must be so many numbers, each at least 0 and less than 1
    rules: every rule that `rule` may return
    ours: hyper-parameters that torch's optimizer of this name does not have, so that its checkpoints lack them
    beside: what a saved state may hold besides the rules' own
    last: the report of the last step; None before the first
    """

    positive: ClassVar[tuple[str, ...]] = ("lr", "eps", "weight_decay")
    shares: ClassVar[Mapping[str, int]] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()
    ours: ClassVar[tuple[str, ...]] = ()
    beside: ClassVar[tuple[str, ...]] = ()

    _in_backward: StepInBackward | None = None
    _step_supports_amp_scaling = True  # GradScaler sets grad_scale and found_inf, and `step` reads them

    zero_grad = light("zero_grad")

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

    def preconditioner(self, group: Group) -> Preconditioner | None:
        """What makes the directions that the group's rule is given, if it is."""
        return None

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not set is taken from the defaults.

        Beside the hyper-parameters a group may have `lr_factors` and `decay_factors`, one number for each of its
        parameters, by which their rate and decay are multiplied, and keys of your own.
        """
        if isinstance(cast(Any, param_group), dict):  # else torch says what it wants
            groups.check_keys(type(self).__name__, param_group, self.defaults, self.options)
            self._check({**self.defaults, **param_group})
        _add_param_group(self, param_group)
        try:
            groups.check_factors(self.param_groups[-1])
        except UserError:
            self.param_groups.pop()
            raise

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient. Returns what `closure`, if given, returned."""
        self._refuse_swapped()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._in_backward is not None and self._in_backward.active:
            self.last = self._in_backward.close()
            return loss
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            updates = [self._update(group) for group in self.param_groups]
            self.last = self._engine.step(updates, self.state, self.options, 1.0 if scale is None else scale, overflow)
        return loss

    def step_in_backward(self, every: int = 1) -> StepInBackward:
        """Step each parameter in the backward pass, as soon as its gradient is there, and free the gradient.

        So gradients never exist all at once, and the weights are those of the usual step. The loop stays as it is:
        `backward()` moves the parameters, `step()` closes the step (hooks, `last`) and moves what still has a gradient.
        Each `backward()` is a step of its own, also where `step()` is called more rarely.

        The norm of the whole gradient is not known in time: `clip_norm` goes by that of the step before, and leaves the
        first step as it is. What cannot do without is refused: `skip_nonfinite`, clip functions, GradScaler.

        Args:
            every: how many backward passes add up to a step

        Returns:
            a handle; its `remove()` gives the usual behaviour back

        >>> import torch, surefoot as sf
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> opt = sf.optim.SGD([w], lr=0.25)
        >>> handle = opt.step_in_backward()
        >>> (w ** 2).sum().backward(); opt.step()
        >>> w.data, w.grad
        (tensor([ 0.5000, -1.0000]), None)
        """
        if self._in_backward is not None and self._in_backward.active:
            raise UserError("step_in_backward: it is in force already: call remove() of its handle first")
        self._in_backward = StepInBackward(self, every, self._update)
        return self._in_backward

    def state_dict(self, format: Literal["surefoot", "torch"] = "surefoot") -> dict[str, Any]:
        """A copy of the state, in torch.optim's layout.

        Args:
            format: "torch" leaves out what torch.optim has no place for: the averages of `ema`, the slow weights of
                `Lookahead`, what the clip function has learned
        """
        if format not in ("surefoot", "torch"):
            raise unknown("format of state_dict", format, ("surefoot", "torch"))
        self._refuse_swapped()
        return loading.saved(self, _state_dict(self), format)

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
        loading.learn(loading.learner(self), state_dict)
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

    def _update(self, group: Group) -> Update:
        self._refuse_swapped()
        rule = self.rule(group)
        return Update(
            rule,
            group["params"],
            group.get("param_names"),
            {name: _value(group, name) for name in rule.needed},
            _value(group, "lr"),
            _value(group, "weight_decay") if "weight_decay" in group else 0.0,
            self.decoupled(group),
            group.get("maximize", False),
            group.get("differentiable", False),
            *(group.get(name, ()) for name in PER_PARAMETER),
            preconditioner=self.preconditioner(group) if rule.given else None,
            keep=group,
        )

    def _check(self, group: Group) -> None:
        """Refuse hyper-parameters out of range, and options that are not there yet."""
        for name in self.positive:
            if not is_number(group[name]):
                raise self._refusal(name, group[name], "it must be a number, or a tensor of one element")
            if not group[name] >= 0:
                raise self._refusal(name, group[name], "it must be 0 or more")
        for name, number in self.shares.items():
            if not (are_numbers(group[name], number) and all(0 <= x < 1 for x in group[name])):
                raise self._refusal(name, group[name], f"it must be {WORDS[number]} numbers from 0 to below 1")
        for name in FLAGS & group.keys():
            if not (isinstance(group[name], bool) or (name in ("foreach", "fused") and group[name] is None)):
                raise self._refusal(name, group[name], "it must be True or False")

    def _refusal(self, name: str, value: object, why: str) -> UserError:
        return UserError(f"{type(self).__name__}: {name}={value!r}: {why}")


def is_number(value: object) -> bool:
    """Whether it is a number, or a tensor of one."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def are_numbers(value: object, number: int) -> bool:
    """Whether it is a tuple of so many numbers."""
    numbers = cast("tuple[object, ...]", value)
    return isinstance(value, tuple | list) and len(numbers) == number and all(map(is_number, numbers))


def _value(group: Group, name: str) -> Any:
    """A hyper-parameter by the name that rules use; `beta1` and `beta2` lie in `betas`, and so with others."""
    value = group[name] if name in group else group[f"{name[:-1]}s"][int(name[-1]) - 1]
    return value.reshape(()) if isinstance(value, Tensor) else value
