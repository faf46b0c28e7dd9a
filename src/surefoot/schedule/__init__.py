"""Learning-rate schedules: pure functions of time, their text form, and the driver that applies one."""

from surefoot.schedule.driver import Driver, drive
from surefoot.schedule.shapes import Schedule, constant, cosine, linear, step
from surefoot.schedule.text import parse

__all__ = ["Driver", "Schedule", "constant", "cosine", "drive", "linear", "parse", "step"]
