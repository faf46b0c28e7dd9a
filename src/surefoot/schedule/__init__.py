"""Schedules: pure functions of time, their algebra and text form, and the driver that applies them."""

from surefoot.schedule.driver import Driver, drive
from surefoot.schedule.from_torch import from_torch
from surefoot.schedule.schedule import Schedule
from surefoot.schedule.shape import SHAPES as _SHAPES
from surefoot.schedule.text import parse
from surefoot.schedule.torch_names import TORCH

constant, step, multistep = _SHAPES["constant"], _SHAPES["step"], _SHAPES["multistep"]
exponential, linear, warmup, cosine = (_SHAPES[name] for name in ("exponential", "linear", "warmup", "cosine"))
polynomial, rex, inverse_sqrt, power = (_SHAPES[name] for name in ("polynomial", "rex", "inverse_sqrt", "power"))
cosine_restarts, one_cycle, cyclic, wsd = (_SHAPES[name] for name in ("cosine_restarts", "one_cycle", "cyclic", "wsd"))
piecewise, function, plateau = _SHAPES["piecewise"], _SHAPES["function"], _SHAPES["plateau"]

__all__ = [
    "TORCH",
    "Driver",
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "drive",
    "exponential",
    "from_torch",
    "function",
    "inverse_sqrt",
    "linear",
    "multistep",
    "one_cycle",
    "parse",
    "piecewise",
    "plateau",
    "polynomial",
    "power",
    "rex",
    "step",
    "warmup",
    "wsd",
]
