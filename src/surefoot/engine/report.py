"""What an optimizer can tell of its last step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from surefoot.engine.gradient import Gradient
from surefoot.engine.lane import Floats
from surefoot.engine.launch import SUMS
from surefoot.engine.sums import Sums


@dataclass(frozen=True)
class Report:
    """The last step of an optimizer: `optimizer.last`. Its numbers are worked out when they are read.

    Norms are of the gradient with the loss scale removed and before clipping. Parameters go by their names, or by
    `group 0, parameter 3` where they have none; those that had no gradient are left out.

    reason: why nothing moved; "" if the step was taken
    clip_factors: for each parameter group, what its gradients were multiplied by

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> opt = sf.optim.SGD([("w", w)], lr=0.1, clip_norm=1.0)
    >>> w.grad = torch.tensor([0.0, 2.0]); opt.step()
    >>> opt.last.grad_norm, round(opt.last.clip_factor, 4), opt.last.update_ratio
    (2.0, 0.5, {'w': 0.0199...})
    """

    reason: str = ""
    clip_factors: Sequence[float] = ()
    _sums: Sums | None = field(default=None, repr=False)
    _gradient: Gradient | None = field(default=None, repr=False)  # where it was measured before the step
    _unscale: float = field(default=1.0, repr=False)

    @property
    def skipped(self) -> bool:
        return bool(self.reason)

    @property
    def stepped(self) -> bool:
        return not self.reason

    @property
    def clip_factor(self) -> float:
        """What the gradients were multiplied by to clip them; the smallest where groups differ."""
        return min(self.clip_factors, default=1.0)

    @cached_property
    def grad_norm(self) -> float:
        """The norm of the whole gradient; NaN where none was read."""
        if self._gradient is not None:
            return self._gradient.total
        return math.sqrt(self._column("grad2").sum()) * self._unscale if self._sums is not None else math.nan

    @cached_property
    def grad_norms(self) -> dict[str, float]:
        """The norm of each parameter's gradient."""
        if self._gradient is not None:
            return self._gradient.tensors
        return self._named(np.sqrt(self._column("grad2")) * self._unscale)

    @cached_property
    def update_ratio(self) -> dict[str, float]:
        """|update| / |parameter| of each parameter, decay included, the parameter as it was before the step."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._named(np.sqrt(self._column("update2") / self._column("param2")))

    @cached_property
    def cosine(self) -> dict[str, float]:
        """The cosine of the angle between gradient and momentum, for each parameter whose rule keeps a momentum."""
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = self._column("dot") / np.sqrt(self._column("grad2")) / np.sqrt(self._column("momentum2"))
        return {name: cosine for name, cosine in self._named(cosines).items() if not math.isnan(cosine)}

    def _column(self, name: str) -> Floats:
        """A sum of the second pass; of nothing where it was not run."""
        return np.empty(0) if self._sums is None else self._sums.table[:, SUMS["update"].index(name)]

    def _named(self, values: Floats) -> dict[str, float]:
        return {} if self._sums is None else dict(zip(self._sums.names, values.tolist(), strict=True))
