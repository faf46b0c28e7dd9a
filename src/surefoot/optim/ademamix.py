"""AdEMAMix."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.options import Given
from surefoot.optim.optimizer import Group, Optimizer, options
from surefoot.rules import ademamix
from surefoot.rules.rule import Rule


class AdEMAMix(Optimizer):
    r"""AdamW with a second, much slower average of gradients beside the first, so that old gradients still count.

        a = alpha * min(t / max(alpha_warmup, 1), 1)
        k = min(t / max(beta3_warmup, 1), 1)
        b = 0.5^(1 / ((1 - k) * log(0.5) / log(beta1) + k * log(0.5) / log(beta3)))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        s = b * s + (1 - b) * g
        p = p - lr * ((m / (1 - beta1^t) + a * s) / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay * p)

    The slow average follows for thousands of steps: warm both alpha and beta3 up (the paper does, over the whole
    training), else early gradients may make training diverge.

    Args:
        params: parameters, named parameters, or groups of them (dicts)
        lr: step size; the slow average makes steps up to 1 + alpha times as long
        betas: (beta1, beta2, beta3), how much of m, v and s is kept from step to step
        alpha: the weight of the slow average s
        beta3_warmup: steps over which the half-life of s grows from that of m; 0 for none
        alpha_warmup: steps over which its weight grows from 0; 0 for none
        eps: keeps the quotient finite where gradients vanish
        weight_decay: decoupled, as in AdamW
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, naming it

    Source: Pagliardini, Ablin & Grangier 2024 (arXiv:2409.03137), algorithm 1 and the schedulers of appendix A.1; names
    as in the authors' code, alpha as in the paper.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.AdEMAMix([w], lr=0.1, alpha_warmup=1000, beta3_warmup=1000)
    >>> (w ** 2).sum().backward(); opt.step()
    >>> w.data
    tensor([ 0.9000, -1.9000])
    """

    positive: ClassVar = (*Optimizer.positive, "alpha", "beta3_warmup", "alpha_warmup")
    shares: ClassVar = {"betas": 3}
    rules: ClassVar = (ademamix.ademamix,)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        beta3_warmup: int = 0,
        alpha_warmup: int = 0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return ademamix.ademamix

    def decoupled(self, group: Group) -> bool:
        return True
