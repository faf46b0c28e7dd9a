"""From signals, which may be tensors on a device or functions, to numbers: those of many steps together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from surefoot.errors import UserError
from surefoot.record.store import Row
from surefoot.task.task import described

Signal: TypeAlias = "float | Tensor | Callable[[], float]"
Added: TypeAlias = tuple[int, Mapping[str, Signal]]  # the signals of one step
Failed: TypeAlias = Callable[[BaseException], None]


@torch.no_grad()
def read(added: Iterable[Added], failed: Failed) -> list[Row]:
    """The signals of some steps as numbers; waits for the devices.

    Args:
        added: the steps
        failed: is told why a signal cannot be read, which is left out then

    >>> read([(1, {"loss": torch.tensor(0.5), "lr": 0.1}), (2, {"loss": lambda: 0.25, "lr": "high"})], print)
    the signal lr at step 2 must be one number, not str
    [(1, 'loss', 0.5), (1, 'lr', 0.1), (2, 'loss', 0.25)]
    """
    flat = [(step, name, signal) for step, signals in added for name, signal in signals.items()]
    tensors = copied([signal for _, _, signal in flat if isinstance(signal, Tensor) and single(signal)], failed)
    rows: list[Row] = []
    for step, name, signal in flat:
        value = tensors.get(id(signal), signal)
        number = value if type(value) is float else number_of(step, name, value, failed)  # most are, and calls cost
        if number is not None:
            rows.append((step, name, number))
    return rows


LOST: Any = object()  # in the place of what a device that failed does not give out


def copied(tensors: Iterable[Tensor], failed: Failed) -> dict[int, Any]:
    """What is in tensors, by their ids: one copy for all of a device and type."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    values: dict[int, Any] = {}
    for group in groups.values():
        values.update(zip(map(id, group), copied_from_one(group, failed), strict=True))
    return values


def copied_from_one(tensors: list[Tensor], failed: Failed) -> list[Any]:
    """What is in tensors of one device and type."""
    device = tensors[0].device
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the training may compute on a stream of its own
        return cast("list[Any]", torch.stack([t if t.ndim == 0 else t.reshape(()) for t in tensors]).tolist())
    except Exception as error:  # noqa: BLE001 - drivers raise what they like: the training hears of it
        failed(error)
        return [LOST] * len(tensors)


def number_of(step: int, name: str, signal: Any, failed: Failed) -> float | None:
    """A signal as a number; None where that fails, or has failed."""
    if signal is LOST:
        return None
    try:
        value: Any = signal() if callable(signal) else signal
    except BaseException as error:  # noqa: BLE001 - a signal's own code may raise anything: the training hears of it
        failed(error)
        return None
    try:
        if not isinstance(value, Tensor) or single(value):
            return float(value)
    except (TypeError, ValueError):
        pass  # it is told below
    failed(UserError(f"the signal {name} at step {step} must be one number, not {described(value)}"))
    return None


def single(tensor: Tensor) -> bool:
    """Whether a tensor holds one real number."""
    return tensor.numel() == 1 and not tensor.is_complex()
