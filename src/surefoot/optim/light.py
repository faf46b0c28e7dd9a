"""torch's own methods of an optimizer, without what they cost where nobody needs it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch._C._autograd import _profiler_enabled  # pyright: ignore[reportPrivateUsage]
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,  # pyright: ignore[reportPrivateUsage]
    _global_optimizer_pre_hooks,  # pyright: ignore[reportPrivateUsage]
)


def light(method: str) -> Callable[..., Any]:
    """torch's own method, without the 1.1 s import of torch._dynamo that its decorator does at the first call.

    Where torch._dynamo is loaded already, the decorated method runs, so nothing changes for torch.compile.
    """
    decorated = getattr(torch.optim.Optimizer, method)
    plain = inspect.unwrap(decorated)

    @functools.wraps(plain)
    def call(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        return (decorated if "torch._dynamo" in sys.modules else plain)(self, *args, **kwargs)

    return call


def hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """torch's wrapper, which calls hooks and tells a profiler; where no profiler listens, hooks are called without it.

    It takes 0.2 ms after a backward pass that has emptied the caches, as much as 100 tensors' updates.
    """
    wrapped = torch.optim.Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _global_optimizer_pre_hooks or _global_optimizer_post_hooks or _profiler_enabled():
            return wrapped(*args, **kwargs)
        self = args[0]
        for hook in self._optimizer_step_pre_hooks.values():
            changed = hook(self, args, kwargs)
            if changed is not None:
                if not (isinstance(changed, tuple) and len(cast("tuple[Any, ...]", changed)) == 2):
                    raise RuntimeError(f"{step} must return None or a tuple of (new_args, new_kwargs), not {changed}")
                args, kwargs = cast(Any, changed)
        out = step(*args, **kwargs)
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, args, kwargs)
        return out

    call.hooked = True  # pyright: ignore[reportAttributeAccessIssue]  # torch wraps those that do not say so
    return call
