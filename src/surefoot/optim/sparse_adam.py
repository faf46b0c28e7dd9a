"""Adam for sparse gradients."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules.adam import lazy_adam
from surefoot.rules.rule import Rule


class SparseAdam(Optimizer):
    r"""Adam that moves only the rows that a sparse gradient holds: those of an embedding that were looked up.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr * (m / (1 - beta1 ^ t)) / (sqrt(v) / sqrt(1 - beta2 ^ t) + eps)

    in these rows, whose m and v stay as they are while they are not looked up. t counts the parameter's steps. Dense
    gradients, which torch.optim.SparseAdam refuses, are taken as Adam takes them: one optimizer does for a whole model.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size: about the most that a parameter moves in one step
        betas: (beta1, beta2), how much of m and v is kept from step to step
        eps: keeps the quotient finite where gradients vanish
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; names and state_dict as torch.optim.SparseAdam, which adds
    eps before the bias correction.

    >>> import torch, surefoot as sf
    >>> table = torch.nn.Embedding(3, 2, sparse=True, _weight=torch.ones(3, 2))
    >>> opt = sf.optim.SparseAdam(table.parameters(), lr=0.1)
    >>> table(torch.tensor([2])).sum().backward(); opt.step()
    >>> table.weight.data
    tensor([[1.0000, 1.0000],
            [1.0000, 1.0000],
            [0.9000, 0.9000]])
    """

    positive: ClassVar = ("lr", "eps")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (lazy_adam,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return lazy_adam
