"""docs/schedules.md and its picture, from the shapes' own words: python docs/make_schedules.py [--text]"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import surefoot as sf
from surefoot.schedule import TORCH, parse
from surefoot.schedule.shape import SHAPES
from surefoot.schedule.times import UNITS

FOLDER = Path(__file__).parent
SHOWN = {  # of each shape what is drawn, for a run of 100
    "constant": "constant(0.5)",
    "step": "step(30, 0.3)",
    "multistep": "multistep((30, 80), 0.3)",
    "exponential": "exponential(0.97)",
    "linear": "linear(0.1, 1, 20)",
    "warmup": "warmup(20)",
    "cosine": "warmup(10) >> cosine",
    "polynomial": "polynomial(power=2)",
    "rex": "rex",
    "inverse_sqrt": "warmup(10) >> inverse_sqrt(10)",
    "power": "warmup(10) >> power(10)",
    "piecewise": "piecewise((0, 0), (20, 1), (60, 0.6), (100, 0))",
    "cosine_restarts": "cosine_restarts(15, stretch=2, height=0.7)",
    "one_cycle": "one_cycle(100)",
    "cyclic": "cyclic(12, mode=triangular2)",
    "wsd": "wsd(warmup=10%, cooldown=30%)",
}
HEAD = """# Schedules

Made from the shapes' own words by `docs/make_schedules.py`. A schedule is a pure function of time, `schedule(t)`, which
gives a factor on the base rate. The picture shows each shape over a run of 100; `surefoot schedule EXPR` draws any
expression in the terminal, `schedule.plot()` with matplotlib.

![every shape](schedules.png)

## How they combine

| expression | what it is |
|---|---|
| `a >> b` | a, then b with a clock of its own from 0; a needs a length |
| `a * b`, `0.5 * a` | the product |
| `a.scaled(x)`, `a.floor(x)` | a times x; a, but never less than x |
| `a.repeat(n)`, `a.stretch(total)`, `a.cut(length)` | n times over; as long as total; its first part |

The text form, which recipes and the command line take, is the same without quotes and empty brackets:
`"warmup(5ep) >> cosine"`. Bare numbers count calls of `driver.step()`; lengths with a unit are worked out once, by the
driver: {units}. Past its end a
schedule holds its last value.

## torch's schedulers

`sf.schedule.from_torch(scheduler)` turns a live one into a driver that goes on from where it is.

| torch | here |
|---|---|
{torch}

## Shapes

"""


def signature(name: str) -> str:
    """How a shape is written."""
    return f"{name}{str(inspect.signature(SHAPES[name])).replace(' = ', '=')}"


def page() -> str:
    """The page's text."""
    units = ", ".join(f'`"5{unit}"` ({name})' for unit, name in UNITS.items())
    torch = "\n".join(f"| `{name}` | {_code(text)} |" for name, text in TORCH.items())
    parts = [HEAD.format(units=units, torch=torch)]
    for name, make in SHAPES.items():
        words, mark, example = inspect.cleandoc(make.__doc__ or "").partition(">>> ")
        lines = [line for line in (mark + example).strip().splitlines() if line != ">>> import surefoot as sf"]
        code = "\n".join(lines)
        parts.append(f"### {name}\n\n`{signature(name)}`\n\n{words.strip()}\n\n```pycon\n{code}\n```\n\n")
    return "".join(parts).rstrip() + "\n"


def _code(text: str) -> str:
    expression, mark, words = text.partition(";")
    return f"`{expression}`{mark}{words}"


def draw(file: Path) -> None:
    """Every shape, as a picture."""
    import matplotlib as mpl
    from PIL import Image

    mpl.use("agg")
    mpl.rcParams["font.size"] = 7
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, 4, figsize=(9, 5.6), layout="constrained", sharex=True, sharey=True)
    for axis, text in zip(axes.flat, SHOWN.values(), strict=True):
        schedule = parse(text)
        schedule.plot(total=100, ax=axis)
        axis.get_legend().remove()
        axis.set(title=text if len(text) < 34 else text[: text.index("(")], ylim=(0, 1.05), xlabel="", ylabel="")
    figure.savefig(file, dpi=110)
    plt.close(figure)
    Image.open(file).quantize(32).save(file, optimize=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--text", action="store_true", help="leave the picture as it is")
    args = options.parse_args()
    (FOLDER / "schedules.md").write_text(page(), encoding="utf-8")
    if not args.text:
        draw(FOLDER / "schedules.png")


if __name__ == "__main__":
    assert sf.schedule.cosine  # the shapes go by their names once the room is loaded
    main()
