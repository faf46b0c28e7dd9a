"""What a watch must know of a model before it begins."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.", "_forward_module.")


def named(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The trainable parameters with their names in the model itself, wrappers aside."""
    return [(plain(name), p) for name, p in model.named_parameters() if p.requires_grad]


def plain(name: str) -> str:
    """A name without those of wrappers.

    >>> plain("module._orig_mod.head.weight")
    'head.weight'
    """
    while any(name.startswith(wrapper) for wrapper in WRAPPERS):
        name = name.partition(".")[2]
    return name


def moody(model: nn.Module) -> bool:
    """Whether the model has parts that work otherwise in training than in evaluation."""
    return any(_dropout(part) or _batch_norm(part) for part in model.modules())


def _dropout(part: nn.Module) -> bool:
    kinds = nn.modules.dropout._DropoutNd  # pyright: ignore[reportPrivateUsage]
    p: Any = getattr(part, "p" if isinstance(part, kinds) else "dropout", 0.0)
    return isinstance(p, float) and p > 0


def _batch_norm(part: nn.Module) -> bool:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)  # pyright: ignore
    return isinstance(part, kinds) and part.track_running_stats


def compiled(model: nn.Module) -> bool:
    """Whether torch.compile is at work in the model: hooks of inner modules are not called, or make it compile anew."""
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in model.modules()
    )
