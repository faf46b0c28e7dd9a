"""Adagrad."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine import states
from surefoot.engine.options import Given, Options
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import adagrad
from surefoot.rules.rule import Rule


class Adagrad(Optimizer):
    r"""Gradients divided by the root of the sum of all their squares so far: rare features keep large steps.

        s0 = initial_accumulator_value
        s = s + g * g
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    where g is the gradient plus weight_decay * p.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        lr_decay: how fast the rate falls with the number of steps
        weight_decay: L2 penalty, added to the gradient
        initial_accumulator_value: what s starts at
        eps: keeps the quotient finite where gradients vanish
        foreach, fused: accepted for torch.optim's sake; they change nothing here
        maximize: go up the gradient
        differentiable: let autograd record the step
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Duchi, Hazan & Singer 2011 (JMLR 12), figure 1, diagonal form; names and state_dict as
    torch.optim.Adagrad.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.Adagrad([w], lr=0.1)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
    rules: ClassVar = (adagrad.adagrad,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return adagrad.adagrad

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; what it does not set is taken from the defaults."""
        super().add_param_group(param_group)
        for p in param_group["params"]:  # torch's Adagrad has its states from the start, so that they can be shared
            states.start(
                self.rule(param_group), param_group, p, self.state[p], Options(state_dtype=self.options.state_dtype)
            )

    def state_dict(self, format: Literal["surefoot", "torch"] = "surefoot") -> dict[str, Any]:
        """A copy of the state, in torch.optim's layout.

        Args:
            format: "torch" leaves out what torch.optim has no place for: the averages of `ema`
        """
        found = super().state_dict(format)
        if format == "torch":
            return found
        # the sums are there from the start, and torch.distributed.checkpoint reads only what it finds a place for
        for group, packed in zip(self.param_groups, found["param_groups"], strict=True):
            for p, key in zip(group["params"], packed["params"], strict=True):
                if key in found["state"]:
                    states.start(self.rule(group), group, p, found["state"][key], self.options)
        return found

    def share_memory(self) -> None:
        """Move the sums to shared memory, for Hogwild-style training in several processes."""
        for kept in self.state.values():
            kept["sum"].share_memory_()
