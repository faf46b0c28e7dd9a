"""What an optimizer can tell of its last step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from surefoot.engine.gradient import Gradient
from surefoot.engine.lane import Floats
from surefoot.engine.launch import SUMS
from surefoot.engine.sums import Sums


class Report:
    """The last step of an optimizer: `optimizer.last`. Its numbers are worked out, and waited for, when they are read.

    Norms are of the gradient with the loss scale removed and before clipping. Parameters go by their names, or by
    `group 0, parameter 3` where they have none; those that had no gradient are left out.

    >>> import torch, surefoot as sf
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> opt = sf.optim.SGD([("w", w)], lr=0.1, clip_norm=1.0)
    >>> w.grad = torch.tensor([0.0, 2.0]); opt.step()
    >>> opt.last.grad_norm, round(opt.last.clip_factor, 4), opt.last.update_ratio
    (2.0, 0.5, {'w': 0.0199...})
    """

    def __init__(
        self,
        gradient: Gradient | None,
        factors: Sequence[float],
        skip_nonfinite: bool,
        loss_scale: float | Tensor,
        overflow: Tensor | None,
        late: bool = False,
    ) -> None:
        self.sums: Sums | None = None  # of a step that was taken
        self._gradient = gradient  # where it was measured before the step
        self._factors = factors  # for each parameter group, where it was not
        self._skip, self._loss_scale, self._overflow = skip_nonfinite, loss_scale, overflow
        self.late = late and (skip_nonfinite or overflow is not None)  # whether `skipped` must wait for a device

    def __repr__(self) -> str:
        return f"Report(reason={self.reason!r}, clip_factors={self.clip_factors!r})"

    @cached_property
    def reason(self) -> str:
        """Why nothing moved; "" if the step was taken."""
        if self._overflow is not None and self._overflow.item():
            return "the loss scaler found an infinity or a NaN"
        return self._gradient.fault() if self._gradient is not None and self._skip else ""

    @cached_property
    def clip_factors(self) -> Sequence[float]:
        """For each parameter group, what its gradients were multiplied by; () where nothing moved."""
        if self.reason:
            return ()
        return self._gradient.factors() if self._gradient is not None else self._factors

    @property
    def skipped(self) -> bool:
        return bool(self.reason)

    @property
    def stepped(self) -> bool:
        return not self.reason

    @property
    def clip_factor(self) -> float:
        """What the gradients were multiplied by to clip them; the smallest where groups or parameters differ."""
        of_tensors = {} if self._gradient is None or self.reason else self._gradient.of_tensors
        return min([*self.clip_factors, *of_tensors.values()], default=1.0)

    @cached_property
    def grad_norm(self) -> float:
        """The norm of the whole gradient; NaN where none was read."""
        if self._gradient is not None:
            return self._gradient.total
        if self._taken is None:
            return math.nan
        return math.sqrt(self._column("grad2").sum()) / float(self._loss_scale)

    @cached_property
    def grad_norms(self) -> dict[str, float]:
        """The norm of each parameter's gradient."""
        if self._gradient is not None:
            return self._gradient.tensors
        return self._named(np.sqrt(self._column("grad2")) / float(self._loss_scale))

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

    @property
    def _taken(self) -> Sums | None:
        """The sums of the second pass, if the step was taken."""
        return None if self.reason else self.sums

    def _column(self, name: str) -> Floats:
        """A sum of the second pass; of nothing where it was not run."""
        return np.empty(0) if self._taken is None else self._taken.table[:, SUMS["update"].index(name)]

    def _named(self, values: Floats) -> dict[str, float]:
        return {} if self._taken is None else dict(zip(self._taken.names, values.tolist(), strict=True))
