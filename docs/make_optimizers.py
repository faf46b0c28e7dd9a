"""docs/optimizers.md and its pictures, from the registry: python docs/make_optimizers.py

For each optimizer its equation, source, defaults, states, and the way that it goes on two surfaces: a long narrow
valley of a quadratic, and Rosenbrock's bent one. Rates on these are found by trying.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import surefoot as sf
from surefoot.optim.info import Info
from surefoot.optim.registry import entry

FOLDER = Path(__file__).parent
STEPS = 120
RATES = [10.0 ** (power / 3) for power in range(-12, 7)]


def quadratic(p: Tensor) -> Tensor:
    return 0.5 * (p[0] ** 2 + 30 * p[1] ** 2)


def rosenbrock(p: Tensor) -> Tensor:
    return (1 - p[0]) ** 2 + 20 * (p[1] - p[0] ** 2) ** 2


SURFACES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float], tuple[float, float]]] = {
    "quadratic": (quadratic, (-4.0, 0.9), (0.0, 0.0)),  # where it starts, and where it should end
    "rosenbrock": (rosenbrock, (-1.3, 1.0), (1.0, 1.0)),
}
HEAD = """# Optimizers

Made from the registry by `docs/make_optimizers.py`; `surefoot explain NAME` and `sf.optim.info(name)` say the same.

Equations are written in a small grammar, which `tests/optim/equations.py` parses and executes against each class: lines
`name = expression` in the order of execution, `p` the parameter, `g` its gradient (with `weight_decay * p` added where
decay is not in the equation), `t` the step, from 1. States keep their value from step to step; they start at 0, or at
what a line `name0 = ...` says. `norm`, `rms` and `sum` are over a tensor, `total` over all parameters.

The pictures show {steps} steps in a narrow valley and in a bent one, at the best of {rates} rates. Two dimensions
without noise say little of networks; they do show momentum, signs and rates of one's own. What the optimizers do on
networks is measured in [benchmarks](../benchmarks/README.md#every-optimizer-optimizerspy).

| name | states, bytes a parameter | suits |
|---|---|---|
"""


def path(name: str, surface: str, lr: float) -> list[tuple[float, float]]:
    """Where an optimizer goes: the points, from the first."""
    function, start, _ = SURFACES[surface]
    chosen = entry(name)
    shape = (2, 1) if name in ("muon", "soap", "shampoo") else (2,)
    p = torch.nn.Parameter(torch.tensor(start).view(shape))
    optimizer: torch.optim.Optimizer = chosen.factory([p], **{**chosen.preset, "lr": lr})
    points: list[tuple[float, float]] = [start]

    def closure() -> Any:
        optimizer.zero_grad()
        loss = function(p.flatten())
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
        with getattr(optimizer, "evaluating", torch.enable_grad)():
            points.append(tuple(p.detach().flatten().tolist()))
    return points


def best(name: str, surface: str) -> tuple[float, list[tuple[float, float]]]:
    """The rate at which the loss is lowest on the way, in the mean of its logarithm, and the way."""
    function = SURFACES[surface][0]
    found = [(lr, path(name, surface, lr)) for lr in RATES]
    heights = [function(torch.tensor(points, dtype=torch.float64).T).log1p().mean() for _, points in found]
    means = [float(height.nan_to_num(torch.inf)) for height in heights]
    return found[means.index(min(means))]


def draw(name: str, file: Path) -> None:
    """The ways on both surfaces, as a picture."""
    import matplotlib as mpl
    import numpy as np
    from PIL import Image

    mpl.use("agg")
    mpl.rcParams["font.size"] = 8
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained")
    for axis, (surface, (function, start, goal)) in zip(axes, SURFACES.items(), strict=True):
        lr, points = best(name, surface)
        wide = (-4.6, 2.6, -1.5, 1.5) if surface == "quadratic" else (-1.8, 1.8, -0.6, 2.0)
        x, y = np.meshgrid(np.linspace(*wide[:2], 120), np.linspace(*wide[2:], 120))
        z = function(torch.tensor(np.stack([x, y]))).numpy()
        axis.contour(x, y, np.log1p(z), levels=14, linewidths=0.5, colors="0.75")
        axis.plot(*zip(*points, strict=True), "-", color="tab:blue", linewidth=0.9, marker=".", markersize=2.5)
        axis.plot(*start, "o", color="tab:green", markersize=5)
        axis.plot(*goal, "*", color="tab:red", markersize=8)
        axis.set(xlim=wide[:2], ylim=wide[2:], title=f"{surface}, lr {lr:.2g}", xticks=[], yticks=[])
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=100)
    plt.close(figure)
    Image.open(file).quantize(32).save(file, optimize=True)


def section(known: Info) -> str:
    """What the page says of one optimizer."""
    given = ", ".join(f"`{name}={value!r}`" for name, value in known.defaults.items())
    kept = ", ".join(f"`{name}`" for name in known.states) or "nothing"
    measured = ""
    if known.within is not None:
        measured = (
            f"- **Measured**: at this rate, a final loss of at most {known.within:g} times the best optimizer's\n"
        )
    equation = f"```\n{known.equation}\n```\n\n" if known.equation else ""
    return (
        f"## {known.name}\n\n{known.summary}\n\n{equation}"
        f"- **Paper**: {known.paper} ({known.year}); {known.where}\n"
        f"- **Defaults**: {given}; {known.defaults_from}\n"
        f"- **States**: {kept}: {known.bytes:.3g} bytes a parameter in single precision\n"
        f"- **Suits**: {known.suits}\n"
        f"- **Weakness**: {known.weakness} ({known.source})\n{measured}\n"
        f"![the way of {known.name} on two surfaces](optimizers/{known.name}.png)\n"
    )


def page() -> str:
    """The page's text."""
    every = [sf.optim.info(name) for name in sf.optim.names()]
    rows = [f"| [{known.name}](#{known.name}) | {known.bytes:.3g} | {known.suits} |" for known in every]
    head = HEAD.format(steps=STEPS, rates=len(RATES)) + "\n".join(rows) + "\n\n"
    return head + "\n".join(section(known) for known in every)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--text", action="store_true", help="leave the pictures as they are")
    args = options.parse_args()
    (FOLDER / "optimizers.md").write_text(page(), encoding="utf-8")
    for name in sf.optim.names() if not args.text else ():
        draw(name, FOLDER / "optimizers" / f"{name}.png")
        print(name, flush=True)


if __name__ == "__main__":
    main()
