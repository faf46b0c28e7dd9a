"""SOAP and Shampoo."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.matrix.shampoo import Roots
from surefoot.engine.matrix.soap import Eigenbasis
from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import soap
from surefoot.rules.rule import Rule

EIGENBASIS, ROOTS = Eigenbasis(), Roots()


class _Matrix(Optimizer):
    """What both share: decoupled decay, and how often the preconditioner is worked out."""

    def decoupled(self, group: Group) -> bool:
        return True

    def _check(self, group: Group) -> None:
        super()._check(group)
        for name in ("precondition_frequency", "max_precond_dim"):
            if not (type(group[name]) is int and group[name] >= 1):
                raise self._refusal(name, group[name], "it must be a whole number, 1 or more")


class SOAP(_Matrix):
    r"""Adam in the basis where the gradients of a matrix are least correlated, which changes slowly.

        L = shampoo_beta * L + (1 - shampoo_beta) * rows_gram(g)
        R = shampoo_beta * R + (1 - shampoo_beta) * columns_gram(g)
        m = beta1 * m + where(t > 1, 1 - beta1, 0) * g
        Q = where(t == 1, eigenvectors(L), Q)
        S = where(t == 1, eigenvectors(R), S)
        h = into(g, Q, S)
        v = beta2 * v + where(t > 1, 1 - beta2, 0) * h * h
        u = into(m, Q, S) / (sqrt(v) + eps) * sqrt(1 - beta2 ^ (t - 1)) / max(1 - beta1 ^ (t - 1), 1 - beta1)
        p = p - lr * (where(t > 1, out_of(u, Q, S), 0) + weight_decay * p)

    where into(x, Q, S) is Q' x S, and out_of(x, Q, S) is Q x S'. The first step moves nothing else. Every
    `precondition_frequency` steps Q and S take one power iteration after L and R. Vectors take Adam's step, and a side
    longer than `max_precond_dim` is not rotated. Kernels of convolutions are matrices [out, in * ...].

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size
        betas: (beta1, beta2), how much of m and v is kept from step to step
        shampoo_beta: how much of L and R; -1: as much as of v
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled
        precondition_frequency: steps between power iterations
        max_precond_dim: the longest side that is rotated
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it; at a step, for parameters divided among processes

    Source: Vyas et al. 2024 (arXiv:2409.11321), algorithms 3 and 4; defaults of the authors' code.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(2, 2))
    >>> opt = sf.optim.SOAP([w], lr=0.1, weight_decay=0)
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([[0.0, 3.0], [0.1, 0.0]]); opt.step()
    >>> w.data
    tensor([[ 0.0000, -0.1000],
            [-0.1000,  0.0000]])
    """

    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (soap.soap,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = -1,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return soap.soap

    def preconditioner(self, group: Group) -> Eigenbasis:
        return EIGENBASIS


class Shampoo(_Matrix):
    r"""The momentum of a matrix between inverse roots of its gradients' row and column products, as long as Adam's.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        L = beta2 * L + (1 - beta2) * rows_gram(g)
        R = beta2 * R + (1 - beta2) * columns_gram(g)
        a = m / (1 - beta1 ^ t) / (sqrt(v) / sqrt(1 - beta2 ^ t) + eps)
        d = precondition(m, L / (1 - beta2 ^ t), R / (1 - beta2 ^ t))
        p = p - lr * (where(columns(p) > 1, norm(a) / norm(d) * d, a) + weight_decay * p)

    where precondition(m, L, R) is (L + e I)^(-1/4) m (R + e I)^(-1/4), e is `matrix_eps` of the largest eigenvalue, and
    the roots are worked out every `precondition_frequency` steps. Vectors take Adam's step a; a matrix with one side
    longer than `max_precond_dim` has the inverse square root of the other alone. Kernels of convolutions are matrices
    [out, in * ...].

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size, as Adam's
        betas: (beta1, beta2), how much of m, and of v, L and R is kept from step to step
        eps: keeps Adam's quotient finite where gradients vanish
        weight_decay: decoupled
        precondition_frequency: steps between roots
        matrix_eps: what keeps the roots finite
        max_precond_dim: the longest side that is preconditioned
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it; at a step, for parameters divided among processes

    Source: Gupta, Koren & Singer 2018 (arXiv:1802.09568), algorithm 1; averages, rare roots and Adam's length as Anil
    et al. 2020 (arXiv:2002.09018), sections 3 and 4.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(2, 2))
    >>> opt = sf.optim.Shampoo([w], lr=0.1)
    >>> w.grad = torch.tensor([[0.0, 3.0], [0.1, 0.0]]); opt.step()
    >>> w.data
    tensor([[ 0.0000, -0.1000],
            [-0.1000,  0.0000]])
    """

    positive: ClassVar = ("lr", "eps", "weight_decay", "matrix_eps")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (soap.shampoo,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precondition_frequency: int = 10,
        matrix_eps: float = 1e-6,
        max_precond_dim: int = 8192,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return soap.shampoo

    def preconditioner(self, group: Group) -> Roots:
        return ROOTS
