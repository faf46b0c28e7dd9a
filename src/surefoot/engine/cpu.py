"""The CPU backend: lanes through compiled kernels, on torch's own threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from surefoot.engine import cache, threads
from surefoot.engine.lane import Floats, Ints, Lane, per_tensor
from surefoot.engine.launch import SUMS, Kernel
from surefoot.engine.options import Options
from surefoot.engine.update import Update
from surefoot.rules.rule import Rule


def available(rule: Rule, precision: str, options: Options) -> bool:
    """Whether this machine can run the kernels that these options need; compiles them if they are new."""
    return all(cache.address(kernel) is not None for kernel in _kernels(rule, precision, options))


def norms(lane: Lane, largest: bool) -> Floats:
    """For each row the sum of squares (or the largest size) of the gradient and the number of non-finite elements."""
    return _launch(Kernel("largest" if largest else "norm", lane.precision), lane)


def step(lane: Lane, updates: Sequence[Update], scales: Sequence[float], options: Options) -> Floats:
    """Move the lane's parameters along their gradients, each group's times its scale.

    Returns for each row the sums that `launch.SUMS["update"]` names.
    """
    index, hyper = _hyper(lane, updates, scales, options)
    kernels = {kernel.kind: kernel for kernel in _kernels(lane.rule, lane.precision, options)}
    if options.cautious:
        agreed = per_tensor(lane.first_row, _launch(kernels["agree"], lane, index, hyper))[:, 0]
        lane.factors[:, 2] = lane.sizes / (agreed + 1)
    sums = _launch(kernels["update"], lane, index, hyper)
    lane.advance()
    return sums


def _kernels(rule: Rule, precision: str, options: Options) -> list[Kernel]:
    bounded, averaged = options.clip_value is not None, options.ema is not None
    kernels = [Kernel("update", precision, rule, bounded, options.cautious, averaged, options.zero_grad_in_step)]
    if options.cautious:
        kernels.append(Kernel("agree", precision, rule, bounded))
    if options.measured:
        largest = options.clip_norm is not None and options.clip_norm.norm_type == math.inf
        kernels.append(Kernel("largest" if largest else "norm", precision))
    return kernels


def _hyper(lane: Lane, updates: Sequence[Update], scales: Sequence[float], options: Options) -> tuple[Ints, Floats]:
    """The table of hyper-parameters, a row for each (group, step), and which row each tensor takes."""
    bound, share = options.clip_value or math.inf, 1 - (options.ema or 1.0)

    def row(group: int, t: float) -> list[float]:  # as launch.HYPER names them; they are numbers (Update.numeric)
        update = updates[group]
        decay = update.weight_decay
        coupled, decoupled = (0.0, decay) if update.decoupled else (decay, 0.0)
        scalars = lane.rule.scalars(t, *(update.hyper[name] for name in lane.rule.hyper))
        return [scales[group], bound, update.lr, coupled, decoupled, share, *scalars]  # pyright: ignore[reportReturnType]

    least, most = lane.span
    if least == most:
        return lane.group_of, np.array([row(group, least + 1) for group in lane.groups])
    step = lane.counts.astype(np.float64) + 1
    pairs, index = np.unique(np.stack([lane.groups[lane.group_of], step]), axis=1, return_inverse=True)
    listed = cast("list[tuple[float, float]]", pairs.T.tolist())
    return index.reshape(-1), np.array([row(int(group), t) for group, t in listed])


NONE = np.zeros(1)
NO_INDEX = np.zeros(1, np.int64)


def _launch(kernel: Kernel, lane: Lane, index: Ints = NO_INDEX, hyper: Floats = NONE) -> Floats:
    """Run a kernel over a lane. What a row without a gradient leaves is zero."""
    address = cache.address(kernel)
    assert address is not None
    out = np.zeros((len(lane.rows), len(SUMS[kernel.kind])))
    workers = threads.count(lane.elements)
    first = lane.units(workers)
    tables = (first, lane.rows, lane.pointers, index, lane.factors, hyper, out)
    addresses = [table.__array_interface__["data"][0] for table in tables]  # quicker than table.ctypes.data
    block = np.array([0, len(first) - 1, len(lane.items), *addresses], np.int64)  # as launch.BLOCK names them
    threads.run(address, block.ctypes.data, workers)
    return out
