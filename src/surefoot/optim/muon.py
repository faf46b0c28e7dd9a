"""Muon, with AdamW for what is no hidden matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from surefoot.engine.matrix.muon import Orthogonal
from surefoot.engine.options import Given
from surefoot.errors import UserError, unknown
from surefoot.optim.optimizer import Group, Optimizer, are_numbers, options
from surefoot.optim.places import places
from surefoot.optim.policy import KINDS, Groups, matching, merged
from surefoot.rules import adam, muon
from surefoot.rules.rule import Rule

ORTHOGONAL = Orthogonal()
MATRICES = ("linear", "conv", "attention", "recurrent")  # kinds of parameters that Muon is for
SCALES = ("original", "match_rms_adamw")


class Muon(Optimizer):
    r"""The momentum of each matrix with its singular values made alike; AdamW for what is no hidden matrix.

        m = momentum * m + (1 - momentum) * g
        u = where(nesterov, momentum * m + (1 - momentum) * g, m)
        scale = sqrt(max(1, rows(p) / columns(p)))
        p = p - lr * (scale * newton_schulz(u) + weight_decay * p)

    where newton_schulz takes `ns_steps` steps of X = a X + b X X' X + c X X' X X' X from u / |u|. To match AdamW's
    rates, scale can be 0.2 max(rows, columns)^(1/2). The kernels of a convolution, [out, in, ...], are one matrix
    [out, in * ...].

    Groups with `algorithm="adamw"` take AdamW's step, with `betas` and their own `eps`, with the same options and in
    the same state_dict. `sf.optim.create("muon", model)` makes the groups: hidden matrices for Muon; embeddings, the
    head, norms and biases for AdamW.

    Args:
        params: parameters, named parameters, or groups of them (dicts); those for Muon must have 2 dimensions or more
        lr: step size
        weight_decay: decoupled
        momentum: share of the momentum kept from step to step
        nesterov: use the momentum that the next step would have
        ns_coefficients: a, b, c
        eps: the least norm that u is divided by; in groups for AdamW, AdamW's own
        ns_steps: steps of the iteration
        adjust_lr_fn: "original" (None) or "match_rms_adamw"
        algorithm: what groups that do not say are trained with, "muon" or "adamw"
        parts: of a group, for each of its parameters how many matrices it holds, one below the other, such as 3 for the
            queries, keys and values of an attention; None: one
        betas: AdamW's
        maximize: go up the gradient
        engine: the engine's options, off by default (`sf.optim.Options`)

    Raises:
        UserError: for a hyper-parameter out of range, or a parameter that is no matrix, naming it; at a step, for
            parameters divided among processes

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); match_rms_adamw: Liu et al. 2025 (arXiv:2502.16982),
    eq. 4; names and state_dict as torch.optim.Muon.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.zeros(2, 2))
    >>> opt = sf.optim.Muon([w], lr=0.1)
    >>> w.grad = torch.tensor([[3.0, 0.0], [0.0, 0.1]]); opt.step()
    >>> (w.data.diagonal() < -0.06).all()                # both directions move alike, whatever their gradients' sizes
    tensor(True)
    """

    positive: ClassVar = ("lr", "weight_decay", "momentum", "eps")
    shares: ClassVar = {"betas": 2}
    rules: ClassVar = (muon.muon, adam.adam)
    ours: ClassVar = ("algorithm", "parts", "betas")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        algorithm: str = "muon",
        parts: list[int] | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        maximize: bool = False,
        **engine: Unpack[Given],
    ) -> None:
        super().__init__(params, options(locals()), engine)

    def rule(self, group: Group) -> Rule:
        return muon.muon if group["algorithm"] == "muon" else adam.adam

    def preconditioner(self, group: Group) -> Orthogonal:
        return ORTHOGONAL

    def decoupled(self, group: Group) -> bool:
        return True

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_matrices(group)
        except UserError:
            self.param_groups.pop()
            raise

    def _check_matrices(self, group: Group) -> None:
        if group["algorithm"] != "muon":
            return
        parts: list[int] = group["parts"] or [1] * len(group["params"])
        if len(parts) != len(group["params"]):
            raise UserError(f"Muon: parts must have a number for each of the group's {len(group['params'])} parameters")
        names = group.get("param_names") or [f"parameter {i}" for i in range(len(parts))]
        for p, name, number in zip(group["params"], names, parts, strict=True):
            if p.ndim < 2 or p.is_complex() or not p.numel():
                raise UserError(
                    f"Muon is for matrices, and {name} has shape {tuple(p.shape)}: put it in a group with "
                    'algorithm="adamw", or let sf.optim.create("muon", model) make the groups'
                )
            if number < 1 or len(p) % number:
                raise UserError(f"Muon: {name} has {len(p)} rows, which are not {number} matrices of as many rows each")

    def _check(self, group: Group) -> None:
        super()._check(group)
        if group["algorithm"] not in ("muon", "adamw"):
            raise unknown("algorithm of Muon", str(group["algorithm"]), ("muon", "adamw"))
        if group["adjust_lr_fn"] not in (None, *SCALES):
            raise unknown("adjust_lr_fn of Muon", str(group["adjust_lr_fn"]), SCALES)
        if not (type(group["ns_steps"]) is int and 0 <= group["ns_steps"] < 100):
            raise self._refusal("ns_steps", group["ns_steps"], "it must be a whole number from 0 to 99")
        if not are_numbers(group["ns_coefficients"], 3):
            raise self._refusal("ns_coefficients", group["ns_coefficients"], "it must be three numbers")


def hidden(model: nn.Module, adamw_lr: float = 3e-4, split: Mapping[str, int] | None = None) -> Groups:
    """Groups for Muon: hidden matrices, told by the types of their modules; all else goes to AdamW.

    Muon takes the weights of linear layers, convolutions, attention and recurrent layers, but for the last linear
    layer, which makes the outputs. Of what fuses several matrices (the queries, keys and values of
    nn.MultiheadAttention, the gates of nn.LSTM and nn.GRU) each is taken for itself. Norms, biases and embeddings are
    not decayed.

    Args:
        adamw_lr: the rate of AdamW's groups
        split: how many matrices other weights hold, one below the other, by patterns of names: {"*.qkv.weight": 3}

    Raises:
        UserError: for a pattern that no name matches
    """
    known = [place for place in places(model) if place.param.requires_grad]
    for pattern, number in (split or {}).items():
        for place in matching("split", [pattern], known):
            place.parts = number
    settings: dict[str, dict[str, Any]] = {}
    for place in known:
        if place.kind in MATRICES and place.param.ndim > 1 and not place.head:
            settings[place.name] = {"algorithm": "muon"}
            continue
        place.parts = 1
        own = settings[place.name] = {"algorithm": "adamw", "lr": adamw_lr, "eps": 1e-8}
        if place.kind in KINDS:
            own["weight_decay"] = 0.0
    return merged(known, settings, {"parts": {place.name: place.parts for place in known}})
