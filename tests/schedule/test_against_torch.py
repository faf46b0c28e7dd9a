"""The expressions of `TORCH`, read with torch's own arguments, have the values of torch's schedulers."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler

import surefoot as sf
from surefoot.schedule import TORCH, constant, cosine_restarts, cyclic, drive, exponential, linear, one_cycle

STEPS = 100


def optimizer(module=torch.optim, name="SGD", lr=1.0, **options):
    return getattr(module, name)([torch.nn.Parameter(torch.ones(1, dtype=torch.float64))], lr=lr, **options)


def walk(opt, scheduler, steps: int, told=None) -> list[dict[str, float]]:
    """What the scheduler makes of the optimizer, before each of so many steps."""
    found = []
    for t in range(steps):
        (group,) = opt.param_groups
        found.append({"lr": group["lr"], "momentum": group["betas"][0] if "betas" in group else group["momentum"]})
        for p in group["params"]:
            p.grad = torch.ones_like(p)
        opt.step()
        scheduler.step() if told is None else scheduler.step(told[t])
    return found


def column(found: list[dict[str, float]], name: str) -> list[float]:
    return [values[name] for values in found]


def near(values) -> object:
    return pytest.approx(values, abs=1e-12, rel=0)


ARGUMENTS = {
    "LambdaLR": lambda r: {"lr_lambda": partial(pow, r.uniform(0.5, 1.1))},
    "StepLR": lambda r: {"step_size": r.randint(1, 40), "gamma": r.uniform(0, 1.1)},
    "MultiStepLR": lambda r: {"milestones": sorted(r.choices(range(60), k=r.randint(1, 5))), "gamma": r.uniform(0, 1)},
    "ConstantLR": lambda r: {"factor": r.uniform(0.1, 1), "total_iters": r.randint(1, 40)},
    "LinearLR": lambda r: {
        "start_factor": r.uniform(0.01, 1),
        "end_factor": r.choice([0, r.uniform(0, 1), 1]),
        "total_iters": r.randint(1, 90),
    },
    "ExponentialLR": lambda r: {"gamma": r.uniform(0.5, 1.02)},
    "PolynomialLR": lambda r: {"total_iters": r.randint(1, 90), "power": r.uniform(0.5, 3)},
    "CosineAnnealingLR": lambda r: {"T_max": r.randint(2, STEPS), "eta_min": r.choice([0.0, r.uniform(0, 0.1)])},
    "CosineAnnealingWarmRestarts": lambda r: {
        "T_0": r.randint(1, 30),
        "T_mult": r.randint(1, 3),
        "eta_min": r.choice([0.0, r.uniform(0, 0.1)]),
    },
    "CyclicLR": lambda r: {
        "base_lr": r.uniform(0.01, 0.5),
        "max_lr": r.uniform(0.5, 1),
        "step_size_up": r.randint(1, 30),
        "step_size_down": r.choice([None, r.randint(1, 30)]),
        "mode": r.choice(["triangular", "triangular2", "exp_range"]),
        "gamma": r.uniform(0.9, 1),
        "cycle_momentum": False,
    },
    "OneCycleLR": lambda r: {
        "max_lr": r.uniform(0.1, 1),
        "total_steps": r.randint(10, STEPS),
        "pct_start": r.uniform(0.2, 0.9),
        "div_factor": r.uniform(2, 50),
        "final_div_factor": r.uniform(2, 1e4),
        "cycle_momentum": False,
    },
}


def expression(name: str, arguments, lr: float = 1.0):
    text = TORCH[name].split(";")[0]
    return eval(text, {**vars(sf.schedule), **arguments, "lr": lr})


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ARGUMENTS)
def test_values_are_torchs(name, seed):
    r = random.Random(seed)
    arguments = ARGUMENTS[name](r)
    lr = arguments.get("max_lr") or r.uniform(0.1, 1)
    ours = expression(name, arguments, lr)
    opt = optimizer(lr=lr)
    scheduler = getattr(lr_scheduler, name)(opt, **arguments)
    steps = {"CosineAnnealingLR": arguments.get("T_max", 0) + 1}.get(name, arguments.get("total_steps", STEPS))
    assert [lr * ours(t) for t in range(steps)] == near(column(walk(opt, scheduler, steps), "lr"))


@pytest.mark.parametrize("seed", range(10))
def test_a_constant_factor_again_and_again_is_exponential(seed):
    factor = random.Random(seed).uniform(0.5, 1)
    opt = optimizer()
    theirs = walk(opt, lr_scheduler.MultiplicativeLR(opt, lambda t: factor), STEPS)
    assert [exponential(factor)(t) for t in range(STEPS)] == near(column(theirs, "lr"))


@pytest.mark.parametrize("seed", range(10))
def test_one_after_the_other(seed):
    r = random.Random(seed)
    n, k, start, gamma = r.randint(1, 30), r.randint(1, 30), r.uniform(0.1, 1), r.uniform(0.8, 1)
    opt = optimizer()
    parts = [
        lr_scheduler.LinearLR(opt, start, total_iters=n),
        lr_scheduler.ExponentialLR(opt, gamma),
        lr_scheduler.CosineAnnealingWarmRestarts(opt, k, 2, eta_min=0.01),
    ]
    theirs = walk(opt, lr_scheduler.SequentialLR(opt, parts, [n, n + k]), STEPS)
    b = exponential(gamma, k) >> cosine_restarts(k, stretch=2, floor=0.01)
    ours = expression("SequentialLR", {"a": linear(start, 1, n), "b": b})
    assert [ours(t) for t in range(STEPS)] == near(column(theirs, "lr"))


@pytest.mark.parametrize("seed", range(10))
def test_one_times_the_other(seed):
    r = random.Random(seed)
    n, factor, gamma = r.randint(1, 50), r.uniform(0.1, 1), r.uniform(0.8, 1)
    opt = optimizer()
    parts = [lr_scheduler.ConstantLR(opt, factor, n), lr_scheduler.ExponentialLR(opt, gamma)]
    theirs = walk(opt, lr_scheduler.ChainedScheduler(parts), STEPS)
    ours = expression("ChainedScheduler", {"a": constant(factor, n) >> constant(), "b": exponential(gamma)})
    assert [ours(t) for t in range(STEPS)] == near(column(theirs, "lr"))


@pytest.mark.parametrize("seed", range(10))
def test_plateaus_fall_when_torchs_do(seed):
    r = random.Random(seed)
    mode = r.choice(["min", "max"])
    arguments = {"factor": r.uniform(0.3, 0.9), "patience": r.randint(0, 5), "threshold": 0.01, "mode": mode}
    metrics = [5 + r.random() - 0.05 * t * (mode == "min") for t in range(STEPS)]
    theirs = optimizer()
    torchs = walk(theirs, lr_scheduler.ReduceLROnPlateau(theirs, eps=0, **arguments), STEPS, metrics)
    opt = optimizer()
    ours = walk(opt, drive(opt, expression("ReduceLROnPlateau", arguments)), STEPS, metrics)
    assert column(ours, "lr") == near(column(torchs, "lr"))
    assert len(set(column(ours, "lr"))) > 2


def with_momentum(name: str):
    """What lets an optimizer have the momentum 0.5, or as its first beta."""
    return {"momentum": 0.5} if name == "SGD" else {"betas": (0.5, 0.99)}


def both(name: str, lr, momentum, highest: float, base: float):
    """An optimizer that is driven by two expressions."""
    opt = optimizer(name=name, lr=base, **({"momentum": highest} if name == "SGD" else {"betas": (highest, 0.99)}))
    return opt, drive(opt, lr, **{"momentum" if name == "SGD" else "betas": momentum})


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("phases", [2, 3])
@pytest.mark.parametrize("curve", ["cos", "linear"])
@pytest.mark.parametrize("seed", range(10))
def test_one_cycle_with_momentum_is_torchs(seed, curve, phases, name):
    r = random.Random(seed)
    total, base, div, final = r.randint(20, STEPS), r.uniform(0.1, 1), r.uniform(1, 50), r.uniform(1, 1000)
    pct, low, high = r.uniform(0.1, 0.5), r.uniform(0.1, 0.8), r.uniform(0.8, 0.99)
    theirs = optimizer(name=name, lr=0.1, **with_momentum(name))
    scheduler = lr_scheduler.OneCycleLR(
        theirs,
        base,
        total_steps=total,
        pct_start=pct,
        anneal_strategy=curve,
        base_momentum=low,
        max_momentum=high,
        div_factor=div,
        final_div_factor=final,
        three_phase=phases == 3,
    )
    common = {
        "length": total - 1,
        "rise": (pct * total - 1) / (total - 1),
        "curve": "cosine" if curve == "cos" else curve,
        "phases": phases,
    }
    rate = one_cycle(start=1 / div, end=1 / div / final, **common)
    opt, driver = both(name, rate, one_cycle(start=1, peak=low / high, end=1, **common), high, base)
    ours, torchs = walk(opt, driver, total), walk(theirs, scheduler, total)
    for what in ("lr", "momentum"):
        assert column(ours, what) == near(column(torchs, what))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("seed", range(10))
def test_cycles_with_momentum_are_torchs(seed, mode, name):
    r = random.Random(seed)
    up, down, gamma = r.randint(1, 20), r.randint(1, 20), r.uniform(0.9, 1)
    least, base = r.uniform(0, 0.1), r.uniform(0.2, 1)
    low, high = r.uniform(0.1, 0.8), r.uniform(0.8, 0.99)
    theirs = optimizer(name=name, **with_momentum(name))
    scheduler = lr_scheduler.CyclicLR(
        theirs, least, base, up, down, mode=mode, gamma=gamma, base_momentum=low, max_momentum=high
    )
    rate = cyclic(up, down, low=least / base, mode=mode, gamma=gamma)
    momentum = cyclic(up, down, low=1, high=low / high, mode=mode, gamma=gamma)
    opt, driver = both(name, rate, momentum, high, base)
    ours, torchs = walk(opt, driver, STEPS), walk(theirs, scheduler, STEPS)
    for what in ("lr", "momentum"):
        assert column(ours, what) == near(column(torchs, what))


SCHEDULERS = {
    **{
        name: lambda opt, name=name: getattr(lr_scheduler, name)(opt, **ARGUMENTS[name](random.Random(1)))
        for name in ARGUMENTS
    },
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda t: 0.9 + 0.1 / (1 + t)),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=2),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, 4),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=20),
}


def test_every_scheduler_of_torch_has_its_entry():
    base = lr_scheduler.LRScheduler
    kinds = {name for name, kind in vars(lr_scheduler).items() if isinstance(kind, type) and issubclass(kind, base)}
    assert set(TORCH) == set(SCHEDULERS) == kinds - {"LRScheduler", "_LRScheduler"}


@pytest.mark.parametrize("optim", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_torchs_schedulers_drive_our_optimizers(name, optim):
    """The same rates, and the same weights in the end."""
    found, weights = [], []
    for module in (sf.optim, torch.optim):
        opt = optimizer(module, optim, lr=0.1, **with_momentum(optim))
        found.append(walk(opt, SCHEDULERS[name](opt), 20, [1.0] * 20 if name == "ReduceLROnPlateau" else None))
        weights.append(opt.param_groups[0]["params"][0].item())
    assert found[0] == found[1]
    assert weights[0] == pytest.approx(weights[1], rel=1e-12)


@pytest.mark.parametrize("optim", ["SGD", "AdamW", "Adam", "RMSprop", "Adagrad"])
def test_ours_drive_torchs_optimizers(optim):
    """As they drive ours: the same rates, and the same weights in the end."""
    found, weights = [], []
    for module in (sf.optim, torch.optim):
        opt = optimizer(module, optim, lr=0.1, weight_decay=0.1)
        driver = drive(opt, "warmup(3) >> one_cycle", weight_decay="linear(1, 0.5)", total=20)
        rates = []
        for _ in range(20):
            rates.append([opt.param_groups[0][key] for key in ("lr", "weight_decay")])
            for p in opt.param_groups[0]["params"]:
                p.grad = torch.ones_like(p)
            opt.step()
            driver.step()
        found.append(rates)
        weights.append(opt.param_groups[0]["params"][0].item())
    assert found[0] == found[1]
    assert weights[0] == pytest.approx(weights[1], rel=1e-12)
