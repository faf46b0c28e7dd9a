"""Showing how a training goes: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """What the loop tells whoever watches it."""

    def step(self, step: int, signals: Mapping[str, float]) -> None:
        """Some steps are done; the latest signals."""
        ...

    def epoch(self, epoch: int, signals: Mapping[str, float], best: bool) -> None:
        """An epoch is done; its results."""
        ...

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_: object) -> None: ...


def show(epochs: int | None, steps: int, done: int, quiet: bool) -> Progress:
    """The right display for where the output goes.

    Args:
        epochs, steps: how many the whole run has; without epochs, lines tell steps
        done: how many steps of them were taken before
    """
    if quiet:
        return Silent()
    return (Bar if sys.stdout.isatty() or "ipykernel" in sys.modules else Lines)(epochs, steps, done)


class Silent:
    """Nothing."""

    def step(self, step: int, signals: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, signals: Mapping[str, float], best: bool) -> None: ...

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None: ...


class Lines(Silent):
    """A line an epoch, or an evaluation."""

    def __init__(self, epochs: int | None, steps: int, done: int) -> None:
        self.epochs, self.steps, self.done = epochs, steps, done
        self.step_now = done
        self.began = time.monotonic()

    def step(self, step: int, signals: Mapping[str, float]) -> None:
        self.step_now = step

    def epoch(self, epoch: int, signals: Mapping[str, float], best: bool) -> None:
        print(f"{self.line(epoch, signals, best)}  {self.left()}", flush=True)

    def line(self, epoch: int, signals: Mapping[str, float], best: bool) -> str:
        """The results in words."""
        if self.epochs is None:
            return line("step", self.step_now, self.steps, signals, best)
        return line("epoch", epoch, self.epochs, signals, best)

    def left(self) -> str:
        """How long the rest will take at the pace so far."""
        pace = (time.monotonic() - self.began) / max(self.step_now - self.done, 1)
        return f"left {clock(pace * (self.steps - self.step_now))}"


class Bar(Lines):
    """A line an epoch or an evaluation, and below them a bar that moves with the steps."""

    def __init__(self, epochs: int | None, steps: int, done: int) -> None:
        from rich import progress
        from rich.table import Column

        super().__init__(epochs, steps, done)
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=12),
            # a narrow terminal cuts off the end of this text and nothing before it
            progress.TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
        )
        self.task = self.bar.add_task(self.under_way(0), total=steps, completed=done, text="")
        self.results: Mapping[str, float] = {}

    def step(self, step: int, signals: Mapping[str, float]) -> None:
        super().step(step, signals)
        self.bar.update(self.task, completed=step, text=f"{self.left()}  {words({**signals, **self.results})}")

    def epoch(self, epoch: int, signals: Mapping[str, float], best: bool) -> None:
        self.results = {name: value for name, value in signals.items() if name.startswith("val/")}
        self.bar.print(self.line(epoch, signals, best), highlight=False, soft_wrap=True)
        self.bar.update(self.task, description=self.under_way(epoch), text=f"{self.left()}  {words(signals)}")

    def under_way(self, complete: int) -> str:
        """What the bar is of."""
        return "steps" if self.epochs is None else f"epoch {min(complete + 1, self.epochs)}/{self.epochs}"

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def line(unit: str, number: int, total: int, signals: Mapping[str, float], best: bool) -> str:
    """The results at an epoch or step in words.

    >>> line("epoch", 3, 20, {"train/loss": 0.5, "val/accuracy": 0.97}, best=True)
    'epoch  3/20  loss 0.5000  accuracy 97.00 %  best'
    """
    return f"{unit} {number:{len(str(total))}}/{total}  {words(signals)}{'  best' if best else ''}"


def words(signals: Mapping[str, float]) -> str:
    """Signals in words: short names, and as many digits as say something."""
    return "  ".join(f"{_name(name)} {_value(name, value)}" for name, value in signals.items())


def clock(seconds: float) -> str:
    """A duration as h:mm:ss.

    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _name(name: str) -> str:
    own = name.split("/")[-1]
    return {"val/loss": "val loss", "train/grad_norm": "|g|"}.get(name, f"raw {own}" if "/raw/" in name else own)


def _value(name: str, value: float) -> str:
    if name.endswith("/accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.2e}" if name == "train/lr" or (value and not 1e-3 <= abs(value) < 1e4) else f"{value:.4f}"
