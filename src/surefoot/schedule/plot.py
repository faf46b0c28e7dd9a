"""Pictures of schedules, with matplotlib and in the terminal."""

# neither matplotlib's nor plotext's functions are annotated throughout
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.errors import UserError
from surefoot.schedule.schedule import Schedule
from surefoot.schedule.times import Clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 1000
ALONE = 100.0  # how much is shown of what has no length


def draw(
    schedules: Sequence[Schedule],
    total: float | None = None,
    ax: Axes | None = None,
    steps_per_epoch: float | None = None,
) -> Axes:
    """Draw schedules into one picture; see `Schedule.plot`."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UserError('plot needs matplotlib: pip install "surefoot[plot]"') from None
    curves = sampled(schedules, total, steps_per_epoch)
    if ax is None:
        ax = pyplot.subplots(figsize=(7, 3.5), layout="constrained")[1]
    for schedule, (times, values) in zip(schedules, curves, strict=True):
        ax.plot(times, values, label=str(schedule))
    ax.set(xlabel="time", ylabel="factor on the base rate", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    return ax


def save(
    schedules: Sequence[Schedule], path: Path, total: float | None = None, steps_per_epoch: float | None = None
) -> None:
    """Draw schedules into a file: PNG, SVG, PDF, as its name ends."""
    figure: Any = draw(schedules, total, None, steps_per_epoch).figure
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot draw into {path}: {error}") from None


def terminal(
    schedules: Sequence[Schedule],
    total: float | None = None,
    steps_per_epoch: float | None = None,
    size: tuple[int, int] = (78, 18),
) -> str:
    """The same as lines of text, one picture below the other."""
    import plotext

    lines: Any = plotext
    pictures: list[str] = []
    for schedule, (times, values) in zip(schedules, sampled(schedules, total, steps_per_epoch), strict=True):
        lines.clear_figure()
        lines.theme("clear")
        lines.plot_size(*size)
        lines.plot(times, values, marker="braille")
        lines.ylim(0, max(values) or 1)
        picture = lines.uncolorize(lines.build())
        pictures.append("\n".join([str(schedule), *(line.rstrip() for line in picture.splitlines())]))
    return "\n\n".join(pictures)


def sampled(
    schedules: Sequence[Schedule], total: float | None, steps_per_epoch: float | None = None
) -> list[tuple[list[float], list[float]]]:
    """Times and values of each. Plateaus, which nobody tells anything, stay 1."""
    known = [_shown(schedule, total, steps_per_epoch) for schedule in schedules]
    ends = [schedule.end for schedule in known if schedule.ends]
    last = total if total is not None else max(ends, default=ALONE)
    times = {last * i / POINTS for i in range(POINTS + 1)} | {float(t) for t in range(min(int(last), POINTS) + 1)}
    times |= {math.nextafter(t, 0) for t in times if t > 0}  # just before a jump, too
    return [(sorted(times), [schedule(t) for t in sorted(times)]) for schedule in known]


def _shown(schedule: Schedule, total: float | None, steps_per_epoch: float | None) -> Schedule:
    schedule = schedule.settled(iter([1.0] * len(schedule.feedback)))
    if schedule.unmeasured or total is not None or steps_per_epoch is not None:
        epoch = {} if steps_per_epoch is None else {"ep": steps_per_epoch}
        schedule = schedule.resolved(Clock(total, {"st": 1, **epoch}))
    if total is not None:
        return schedule.over(total)
    return schedule.over(ALONE) if schedule.incomplete and not schedule.unmeasured else schedule
