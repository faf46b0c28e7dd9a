"""The passes between two steps, and which of them backward reaches."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from surefoot.watch.passed import Passed, number

WAITING = 64  # losses that backward has not reached


class Passes:
    """Follows passes from their loss to backward.

    begun: how often backward has begun since the last step

    Args:
        begins: is told of the first loss that a backward pass reaches
        show: is shown a pass between forward and backward, and once more with the gradient that reaches its outputs
        guard: runs what hooks have to do, and deals with its errors
    """

    def __init__(
        self,
        begins: Callable[[Passed], None],
        show: Callable[[Passed, Tensor | None], None],
        guard: Callable[..., None],
    ) -> None:
        self._begins, self._show, self._guard = begins, show, guard
        self._open: list[Passed] = []
        self._fresh, self.begun = True, 0

    def add(self, one: Passed, looked: bool) -> Passed | None:
        """A loss was worked out that may lead to a step.

        Args:
            looked: whether this step is looked at

        Returns:
            a pass that has waited for backward in vain
        """
        last = self._open[-1] if self._open else None
        if one.criterion is None and last is not None and not last.fired and last.criterion is not None:
            self._open.pop()  # the user says more of the same pass
            last.fired = True
            one.criterion = last.criterion
        if self._open and self._open[-1].fired:
            self._fresh = True
        one.loss.register_hook(self._fires(one))
        if looked:
            self._show(one, None)
            if isinstance(one.outputs, Tensor) and one.outputs.requires_grad:
                one.outputs.register_hook(self._slopes(one))
        self._open.append(one)
        one.loss = number(one.loss)
        one.outputs = one.outputs.detach() if isinstance(one.outputs, Tensor) else None
        return self._open.pop(0) if len(self._open) > WAITING and not self._open[0].fired else None

    def reached(self) -> None:
        """A gradient has arrived at a parameter: the next loss that backward reaches is another pass's."""
        self._fresh = True

    def left(self) -> list[Passed]:
        """Those that backward has not reached; they are not followed any further."""
        found = [one for one in self._open if not one.fired]
        self._open = [one for one in self._open if one.fired]
        return found

    def take(self) -> tuple[list[Passed], int]:
        """A step is taken: the passes that have led to it, and how often backward has begun."""
        found, begun = self._open, self.begun
        self._open, self.begun, self._fresh = [], 0, True
        return found, begun

    def _slopes(self, one: Passed) -> Callable[[Tensor], None]:
        return lambda slope: self._guard(self._show, one, slope)

    def _fires(self, one: Passed) -> Callable[[Tensor], None]:
        def fires(gradient: Tensor) -> None:
            if one.fired:
                return
            one.fired, one.weight = True, number(gradient) if gradient.numel() == 1 else None
            if self._fresh:
                self._fresh = False
                self.begun += 1
                self._guard(self._begins, one)

        return fires
