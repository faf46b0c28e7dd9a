"""What every optimizer can do besides its rule. All of it is off unless asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, TypeAlias, TypedDict

import torch

from surefoot.errors import UserError, unknown

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "8bit": torch.int8}
Structure: TypeAlias = "tuple[bool, bool, bool, bool, str]"


@dataclass(frozen=True)
class Norms:
    """The norms of the gradient, unscaled and before clipping, as a clip function is given them.

    total: of the whole gradient
    groups: of each parameter group
    tensors: of each parameter that has a gradient, by name
    """

    total: float
    groups: Sequence[float]
    tensors: Mapping[str, float]


@dataclass(frozen=True)
class Clip:
    """How gradients are clipped by their norm: they are multiplied by min(1, max_norm / (norm + 1e-6)).

    Args:
        max_norm: the largest norm let through, or a function of the `Norms` that returns the factor, or a sequence of
            factors, one for each parameter group, or a mapping of parameters' names to factors (1 for those left out)
        norm_type: 2 or infinity
        per_group: each parameter group has a norm, and so a factor, of its own
        error_if_nonfinite: raise a UserError where the norm is no finite number

    Source: Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063), algorithm 1; the 1e-6 as torch.nn.utils.clip_grad_norm_.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> opt = sf.optim.SGD([w], lr=1, clip_norm=sf.optim.Clip(2.0, norm_type=float("inf")))
    >>> w.grad = torch.tensor([4.0, -2.0]); opt.step()
    >>> w.data
    tensor([-1.0000, -1.0000])
    """

    max_norm: float | Callable[[Norms], float | Sequence[float] | Mapping[str, float]]
    norm_type: float = 2.0
    per_group: bool = False
    error_if_nonfinite: bool = False

    def __post_init__(self) -> None:
        if not callable(self.max_norm) and not _positive(self.max_norm):
            raise UserError(f"clip_norm={self.max_norm!r}: it must be a number above 0, a function or a Clip")
        if self.norm_type not in (2, math.inf):
            raise UserError(f"norm_type={self.norm_type!r}: it must be 2 or infinity")


@dataclass(frozen=True)
class AGC(Clip):
    """Adaptive gradient clipping: each row of a gradient is cut to a share of the norm of its row of weights.

        g = g * min(1, clipping * max(norm(p), eps) / norm(g))

    where g and p are rows, all that belongs to one output of the layer; of a vector or a number, the whole.

    Args:
        clipping: the share
        eps: the least norm that weights are taken to have, so that those of zero can move

    Source: Brock et al. 2021, "High-performance large-scale image recognition without normalization"
    (arXiv:2102.06171), eq. 3.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> opt = sf.optim.SGD([w], lr=1, clip_norm=sf.optim.AGC(0.1))
    >>> w.grad = torch.tensor([[0.0, 5.0], [0.05, 0.0]]); opt.step()
    >>> w.data
    tensor([[ 3.0000,  3.5000],
            [-0.0500,  1.0000]])
    """

    max_norm: float = field(default=math.inf, init=False)
    norm_type: float = field(default=2.0, init=False)
    per_group: bool = field(default=False, init=False)
    error_if_nonfinite: bool = field(default=False, init=False)
    clipping: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("clipping", "eps"):
            if not _positive(getattr(self, name)):
                raise UserError(f"AGC: {name}={getattr(self, name)!r}: it must be a number above 0")


@dataclass(frozen=True)
class Options:
    """The engine's options, the same for all parameters of an optimizer.

    clip_norm: the largest norm of the whole gradient; larger ones are scaled down (`Clip` says more)
    clip_value: the largest size of a gradient's element; larger ones are cut
    skip_nonfinite: leave everything as it is in a step whose gradients hold a NaN or an infinity
    zero_grad_in_step: set the gradients to zero when they have been used
    centralize: take each row's mean away from gradients that are matrices or more (Yong et al. 2020, arXiv:2004.01461)
    cautious: take only the elements of the update that go down the gradient, and scale these up by the share that was
        left out: d / (number taken + 1), a tensor of d elements (Liang et al. 2024, arXiv:2411.16085, algorithm 2)
    ema: keep an average of each parameter: average = ema * average + (1 - ema) * parameter, at each of its steps
    rounding: how numbers are rounded to half precision, "nearest" or "stochastic": by chance, so that small steps count
        on the average
    rounding_seed: of the hash that chance is
    master_weights: keep a copy in single precision of each parameter in half precision, and move that
    state_dtype: the dtype of states created from now on; None: that of their parameters. "8bit": 8 bits and a scale for
        each block of 256 elements (`surefoot.engine.eight_bit`), where a parameter has 4096 elements or more
    """

    clip_norm: Clip | None = None
    clip_value: float | None = None
    skip_nonfinite: bool = False
    zero_grad_in_step: bool = False
    centralize: bool = False
    cautious: bool = False
    ema: float | None = None
    rounding: str = "nearest"
    rounding_seed: int = 0
    master_weights: bool = False
    state_dtype: torch.dtype | None = None

    @staticmethod
    def of(owner: str, given: Mapping[str, Any], arguments: Iterable[str]) -> Options:
        """The options as a constructor was given them, which takes `arguments`; refuses what has no sense."""
        for name in given:
            if name not in NAMES:
                raise unknown(f"argument of {owner}", name, arguments)
        chosen: dict[str, Any] = dict(given)
        for name in ("clip_norm", "clip_value", "ema"):  # NumPy's numbers would carry their precision into ours
            if _positive(chosen.get(name)):
                chosen[name] = float(chosen[name])
        clip = chosen.get("clip_norm")
        try:
            chosen["clip_norm"] = clip if clip is None or isinstance(clip, Clip) else Clip(clip)
        except UserError as error:
            raise UserError(f"{owner}: {error}") from None
        if chosen.get("state_dtype") in DTYPES:
            chosen["state_dtype"] = DTYPES[chosen["state_dtype"]]
        options = Options(**chosen)
        for name in ("skip_nonfinite", "zero_grad_in_step", "centralize", "cautious", "master_weights"):
            if not isinstance(getattr(options, name), bool):
                raise UserError(f"{owner}: {name}={getattr(options, name)!r}: it must be True or False")
        if options.clip_value is not None and not _positive(options.clip_value):
            raise UserError(f"{owner}: clip_value={options.clip_value!r}: it must be a number above 0")
        if options.clip_norm is not None and options.clip_value is not None:
            raise UserError(f"{owner}: clip by norm or by value, not both: leave out clip_norm or clip_value")
        if options.ema is not None and not (_positive(options.ema) and options.ema < 1):
            raise UserError(f"{owner}: ema={options.ema!r}: it must be a number between 0 and 1, such as 0.999")
        if options.rounding not in ("nearest", "stochastic"):
            raise unknown(f"rounding of {owner}", str(options.rounding), ("nearest", "stochastic"))
        if type(options.rounding_seed) is not int:
            raise UserError(f"{owner}: rounding_seed={options.rounding_seed!r}: it must be a whole number")
        if options.state_dtype not in (None, *DTYPES.values()):
            raise UserError(f"{owner}: state_dtype={options.state_dtype!r}: it must be one of {', '.join(DTYPES)}")
        return options

    @property
    def structure(self) -> Structure:
        """What the code of kernels depends on: gradients bounded, cautious, clearing, chance, kind of norm or ""."""
        norm = ("largest" if self.largest else "norm") if self.measured else ""
        return self.clip_value is not None, self.cautious, self.zero_grad_in_step, self.chance, norm

    @property
    def transforming(self) -> bool:
        """Whether gradients are changed by more than a factor."""
        return self.centralize or isinstance(self.clip_norm, AGC)

    @property
    def random(self) -> bool:
        """Whether any rounding is by chance: states in 8 bits always are."""
        return self.chance or self.state_dtype == torch.int8

    @property
    def chance(self) -> bool:
        """Whether half precision is rounded by chance."""
        return self.rounding == "stochastic"

    @property
    def largest(self) -> bool:
        """Whether norms are of the kind that takes the largest size."""
        return self.clip_norm is not None and self.clip_norm.norm_type == math.inf

    @property
    def measured(self) -> bool:
        """Whether the norm of the gradient must be known before the first parameter moves."""
        return self.clip_norm is not None or self.skip_nonfinite or self.centralize


class Given(TypedDict, total=False):
    """The options as keyword arguments, for constructors to declare: `**engine: Unpack[Given]`."""

    clip_norm: float | Clip | Callable[[Norms], float | Sequence[float] | Mapping[str, float]] | None
    clip_value: float | None
    skip_nonfinite: bool
    zero_grad_in_step: bool
    centralize: bool
    cautious: bool
    ema: float | None
    rounding: Literal["nearest", "stochastic"]
    rounding_seed: int
    master_weights: bool
    state_dtype: Literal["fp32", "bf16", "fp16", "8bit"] | torch.dtype | None


NAMES = tuple(f.name for f in fields(Options))


def _positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(value > 0)  # pyright: ignore
