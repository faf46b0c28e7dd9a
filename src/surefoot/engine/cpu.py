"""The CPU backend: lanes through compiled kernels, on torch's own threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import cast

import numpy as np

from surefoot.engine import rounding, states, threads
from surefoot.engine.cache import address
from surefoot.engine.lane import Floats, Form, Ints, Lane, per_tensor
from surefoot.engine.launch import BLOCK, FACTORS, SUMS, Kernel, address_of
from surefoot.engine.options import Options, Structure
from surefoot.engine.update import Update


def available(form: Form, options: Options) -> bool:
    """Whether this machine can run the kernels that these options need; compiles them if they are new."""
    return None not in _programs(form, options.structure).values()


def norms(lane: Lane, options: Options) -> Floats:
    """For each row the sum of squares (or the largest size) of the gradient and the number of non-finite elements."""
    return _launch("largest" if options.largest else "norm", lane, options)


def step(lane: Lane, updates: Sequence[Update], scales: Sequence[float], options: Options) -> Floats:
    """Move the lane's parameters along their gradients, each group's times its scale.

    Returns for each row the sums that `launch.SUMS["update"]` names.
    """
    index, hyper = _hyper(lane, updates, scales, options)
    if options.cautious:
        agreed = per_tensor(lane.first_row, _launch("agree", lane, options, index, hyper))[:, 0]
        lane.factors[:, FACTORS.index("rescale")] = lane.sizes / (agreed + 1)
    sums = _launch("update", lane, options, index, hyper)
    lane.advance()
    return sums


@cache
def _programs(form: Form, structure: Structure) -> dict[str, int | None]:
    """Where the code of each kind of kernel lies that options of this structure need."""
    bounded, cautious, clearing, chance, norm = structure
    chance = chance and not HALVES.isdisjoint(form.stored)
    update = Kernel(
        "update",
        form.stored,
        form.rule,
        bounded=bounded,
        cautious=cautious,
        averaged=states.AVERAGE in form.names,
        clearing=clearing,
        mastered=states.MASTER in form.names,
        chance=chance,
    )
    kernels = [update]
    if cautious:
        kernels.append(replace(update, kind="agree", cautious=False, clearing=False, chance=False))
    if norm:
        kernels.append(Kernel(norm, form.stored[:1]))
    return {kernel.kind: address(kernel) for kernel in kernels}


def _hyper(lane: Lane, updates: Sequence[Update], scales: Sequence[float], options: Options) -> tuple[Ints, Floats]:
    """The table of hyper-parameters, a row for each (group, step), and which row each tensor takes."""
    bound, share = options.clip_value or math.inf, 1 - (options.ema or 1.0)

    def row(group: int, t: float) -> list[float]:  # as launch.HYPER names them; they are numbers (Update.numeric)
        update = updates[group]
        decay = update.weight_decay
        coupled, decoupled = (0.0, decay) if update.decoupled else (decay, 0.0)
        scalars = update.rule.scalars(t, *(update.hyper[name] for name in update.rule.hyper))
        noise = float(rounding.noise(options.rounding_seed, int(t))) if options.chance else 0.0
        first = (noise, scales[group], bound)
        return [*first, update.lr, coupled, decoupled, share, *scalars]  # pyright: ignore[reportReturnType]

    least, most = lane.span
    if least == most:
        return lane.group_of, np.array([row(group, least + 1) for group in lane.groups], np.float64)
    step = lane.counts.astype(np.float64) + 1
    pairs, index = np.unique(np.stack([lane.groups[lane.group_of], step]), axis=1, return_inverse=True)
    listed = cast("list[tuple[float, float]]", pairs.T.tolist())
    return index.reshape(-1), np.array([row(int(group), t) for group, t in listed], np.float64)


def _launch(kind: str, lane: Lane, options: Options, index: Ints | None = None, hyper: Floats | None = None) -> Floats:
    """Run a kernel over a lane. A row without a gradient leaves zeros."""
    program = _programs(lane.form, options.structure)[kind]
    assert program is not None  # or else this would be no lane
    make = np.empty if lane.active is None else np.zeros
    out = make((len(lane.rows), len(SUMS[kind])))
    workers = threads.count(lane.elements)
    block = lane.block(workers)
    block[CLAIMED], block[OUT] = 0, address_of(out)
    if index is not None and hyper is not None:
        block[INDEX], block[HYPER] = address_of(index), address_of(hyper)
    threads.run(program, address_of(block), workers)
    return out


HALVES = set(rounding.HALVES.values())
CLAIMED, INDEX, HYPER, OUT = (BLOCK.index(name) for name in ("CLAIMED", "INDEX", "HYPER", "OUT"))
