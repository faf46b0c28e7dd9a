"""The standard remedy of each cause, as edits of a training that know of the fault no more than its cause. The best of
several counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from benchmarks.diagnose.families import FAMILIES
from benchmarks.diagnose.program import Setting

Edit = Callable[[Setting], Setting]


def edit(**changes: Any) -> Edit:
    return lambda s: replace(s, **changes)


def rate(factor: float) -> Edit:
    return lambda s: replace(s, lr=s.lr * factor)


def usual_width(s: Setting) -> Setting:
    return replace(s, width=max(s.width, FAMILIES[s.family].sound.get("width", 32)))


REMEDIES: dict[str, list[Edit]] = {
    "lr-too-high": [rate(1 / 3), rate(1 / 10), rate(1 / 100)],
    "lr-too-low": [rate(10), rate(100), rate(300)],
    "schedule-too-fast": [edit(factor=None)],
    "lr-zero": [edit(factor=None)],
    "no-warmup": [edit(warmup=0.1), edit(warmup=0.3)],
    "optimizer-unsuited": [
        edit(optimizer="adam", lr=1e-3),
        edit(optimizer="adam", lr=5e-3),
        edit(optimizer="sgd", momentum=0.9),
    ],
    "clip-too-tight": [edit(clip=None), edit(clip=1.0)],
    "over-regularised": [edit(weight_decay=0.0, dropout=0.0)],
    "batch-too-small": [lambda s: replace(s, batch=s.batch * 8), lambda s: replace(s, batch=s.batch * 32)],
    "batch-too-large": [lambda s: replace(s, batch=max(1, s.batch // 8), steps=s.steps * 8)],
    "undertrained": [lambda s: replace(s, steps=s.steps * 3), lambda s: replace(s, steps=s.steps * 6)],
    "too-little-capacity": [usual_width],
    "overtrained": [
        lambda s: replace(s, steps=s.steps // 4),
        lambda s: replace(s, steps=s.steps // 10),
        edit(items=None),
    ],
    "input-unscaled": [edit(scale=1.0, shift=0.0)],
    "target-unscaled": [edit(target_scale=1.0, target_shift=0.0)],
    "init-too-large": [edit(init=None)],
    "init-too-small": [edit(init=None)],
    "dead-units": [edit(act=nn.LeakyReLU), edit(init=None)],
    "saturated-units": [edit(act=nn.ReLU, init=None), edit(norm=True, init=None)],
    "deep-vanishing": [edit(act=nn.ReLU), edit(act=nn.ReLU, norm=True)],
    "deep-exploding": [edit(norm=True), edit(init=None)],
    "loss-sum": [edit(loss=None)],
    "loss-mismatch": [edit(loss=None)],
    "bad-batch": [edit(poison=None), edit(clip=1.0)],
    "data-order": [edit(order="shuffled")],
    "class-imbalance": [edit(labels=None)],
}

NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "lr-too-high": ("no-warmup", "lr-too-high"),
    "no-warmup": ("lr-too-high",),
    "lr-too-low": ("undertrained", "optimizer-unsuited"),
    "optimizer-unsuited": ("lr-too-low", "undertrained", "lr-too-high"),
    "undertrained": ("lr-too-low", "optimizer-unsuited"),
    "batch-too-large": ("lr-too-low", "undertrained"),
    "batch-too-small": ("lr-too-high",),
    "clip-too-tight": ("lr-too-low", "undertrained"),
    "input-unscaled": ("lr-too-high", "lr-too-low", "optimizer-unsuited"),
    "target-unscaled": ("lr-too-high", "lr-too-low", "undertrained", "optimizer-unsuited"),
    "init-too-large": ("lr-too-high", "lr-too-low", "saturated-units", "undertrained", "deep-exploding"),
    "init-too-small": ("deep-vanishing", "lr-too-low", "dead-units", "optimizer-unsuited"),
    "dead-units": ("init-too-large",),
    "saturated-units": ("init-too-large", "lr-too-low"),
    "deep-vanishing": ("lr-too-low", "init-too-small", "optimizer-unsuited"),
    "deep-exploding": ("init-too-large", "lr-too-high"),
    "loss-sum": ("lr-too-high",),
    "over-regularised": ("lr-too-low",),
    "too-little-capacity": ("undertrained", "dead-units"),
    "overtrained": ("over-regularised",),
    "bad-batch": ("input-unscaled", "target-unscaled"),
    "schedule-too-fast": ("lr-too-low", "undertrained", "lr-zero"),
    "class-imbalance": (),
}
"""What is tried beside the cause that a fault was made by: its inseparable group and its likely neighbours."""
