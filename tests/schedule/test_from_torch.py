"""A driver that takes over from one of torch's schedulers goes on as that would have."""

from __future__ import annotations

import contextlib
import random
import warnings
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

import surefoot as sf
from surefoot.schedule import TORCH, from_torch

BASES = (1.0, 0.3, 0.02)


def optimizer(name="SGD", bases=BASES, module=torch.optim, **options):
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in bases]
    return getattr(module, name)(groups, **options)


def values(opt) -> list[float]:
    """The rates, momenta and betas of all groups."""
    found = []
    for group in opt.param_groups:
        found += [float(group["lr"]), group.get("momentum", 0), *group.get("betas", ())]
    return found


def walk(opt, scheduler, steps: int, told=()) -> list[list[float]]:
    """The values now, and after each of so many steps."""
    found = [values(opt)]
    for t in range(steps):
        opt.step()
        scheduler.step(*told[t : t + 1])
        found.append(values(opt))
    return found


def taken_over(make, after: int, steps: int, opts, told=()) -> tuple[list[list[float]], list[list[float]]]:
    """What our driver makes of an optimizer that had a scheduler for some steps, and what the scheduler would have."""
    opt, twin = opts
    scheduler, theirs = make(opt), make(twin)
    walk(opt, scheduler, after, told)
    walk(twin, theirs, after, told)
    return walk(opt, from_torch(scheduler), steps, told[after:]), walk(twin, theirs, steps, told[after:])


def near(found: list[list[float]]) -> list[object]:
    return [pytest.approx(row, abs=1e-12, rel=0) for row in found]


def one_by_one(opt, r: random.Random):
    parts = [LinearLR(opt, 0.1, total_iters=4), StepLR(opt, 3, 0.7), CosineAnnealingLR(opt, 30)]
    return SequentialLR(opt, parts, [r.randint(1, 6), 9])


SCHEDULERS = {
    "LambdaLR": lambda o, r: LambdaLR(o, [partial(pow, r.uniform(0.5, 1)) for _ in BASES]),
    "MultiplicativeLR": lambda o, r: MultiplicativeLR(o, [lambda t, i=i: 0.9 + 0.1 / (i + t) for i in (1, 2, 3)]),
    "StepLR": lambda o, r: StepLR(o, r.randint(1, 9), r.uniform(0.3, 1)),
    "MultiStepLR": lambda o, r: MultiStepLR(o, r.choices(range(30), k=4), r.uniform(0.3, 1)),
    "ConstantLR": lambda o, r: ConstantLR(o, r.uniform(0.1, 1), r.randint(1, 20)),
    "LinearLR": lambda o, r: LinearLR(o, r.uniform(0.1, 1), r.uniform(0, 1), r.randint(1, 20)),
    "ExponentialLR": lambda o, r: ExponentialLR(o, r.uniform(0.7, 1)),
    "SequentialLR": one_by_one,
    "PolynomialLR": lambda o, r: PolynomialLR(o, r.randint(1, 25), r.uniform(0.5, 3)),
    "CosineAnnealingLR": lambda o, r: CosineAnnealingLR(o, r.randint(24, 40), r.uniform(0, 0.1)),
    "ChainedScheduler": lambda o, r: ChainedScheduler([CosineAnnealingLR(o, 30), ExponentialLR(o, r.uniform(0.7, 1))]),
    "ReduceLROnPlateau": lambda o, r: ReduceLROnPlateau(o, r.choice(["min", "max"]), 0.5, r.randint(0, 2)),
    "CyclicLR": lambda o, r: CyclicLR(
        o,
        [r.uniform(0.01, 0.1) for _ in BASES],
        [r.uniform(0.2, 1) for _ in BASES],
        r.randint(1, 9),
        r.choice([None, r.randint(1, 9)]),
        r.choice(["triangular", "triangular2", "exp_range"]),
        r.uniform(0.8, 1),
        base_momentum=[0.5, 0.8, 0.85],
        max_momentum=[0.9, 0.9, 0.99],
    ),
    "OneCycleLR": lambda o, r: OneCycleLR(
        o,
        list(BASES),
        total_steps=r.randint(24, 40),
        pct_start=r.uniform(0.1, 0.5),
        anneal_strategy=r.choice(["cos", "linear"]),
        base_momentum=[0.5, 0.8, 0.85],
        max_momentum=[0.9, 0.9, 0.99],
        div_factor=r.uniform(2, 30),
        final_div_factor=r.uniform(2, 30),
        three_phase=r.choice([True, False]),
    ),
    "CosineAnnealingWarmRestarts": lambda o, r: CosineAnnealingWarmRestarts(o, r.randint(1, 9), r.randint(1, 3), 0.01),
}


def test_all_of_them_are_here():
    assert set(SCHEDULERS) == set(TORCH)


@pytest.mark.parametrize("optim", ["SGD", "AdamW"])
@pytest.mark.parametrize("after", [0, 1, 5, 13])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_goes_on_as_torchs_would(name, after, optim):
    options = {"momentum": 0.7} if optim == "SGD" else {"betas": (0.7, 0.95)}
    told = [5.0 + (7 * t % 5) for t in range(30)] if name == "ReduceLROnPlateau" else ()
    opts = [optimizer(optim, module=module, **options) for module in (sf.optim, torch.optim)]
    ours, theirs = taken_over(lambda opt: SCHEDULERS[name](opt, random.Random(after)), after, 10, opts, told)
    assert ours == near(theirs)


@pytest.mark.parametrize("after", [0, 3, 4, 6, 9])
def test_the_memory_of_a_plateau_is_taken_over(after):
    """What was best, bad tellings and those that are not counted."""
    told = [3.0, 2.0, 2.5, 2.5, 1.9, 1.9, 2.0, 1.8, 1.8, 1.8, 1.8, 1.8, 1.7, 1.8, 1.8, 1.8, 1.8, 1.8]
    opts = optimizer(), optimizer()
    ours, theirs = taken_over(lambda opt: ReduceLROnPlateau(opt, "min", 0.5, 1, cooldown=2), after, 8, opts, told)
    assert ours == near(theirs)
    assert ours[0] != ours[-1]


@pytest.mark.parametrize("least", [0.3, [0.3, 0.2, 0.001]])
def test_a_plateau_on_rates_that_another_scheduler_had(least):
    """The groups know their first rates then; what it has taken off those is not given back."""

    def make(opt):
        LambdaLR(opt, lambda t: 1.0)
        return ReduceLROnPlateau(opt, factor=0.5, patience=0, min_lr=least)

    ours, theirs = taken_over(make, 3, 3, [optimizer(), optimizer()], [1.0] * 6)
    assert ours == near(theirs)


def test_cycles_from_zero():
    ours, theirs = taken_over(
        lambda opt: CyclicLR(opt, 0.0, 1.0, 4, cycle_momentum=False), 2, 9, [optimizer(), optimizer()]
    )
    assert ours == near(theirs)


def after_another(opt):
    ConstantLR(opt, 1.0)
    return CyclicLR(opt, 0.1, 1.0, 4, cycle_momentum=False)


def after_a_warmup(opt):
    warm = LinearLR(opt, 0.5, total_iters=2)
    return SequentialLR(opt, [warm, CyclicLR(opt, 0.1, 1.0, 4, cycle_momentum=False)], [2])


def one_cycle_after_a_warmup(opt):
    return SequentialLR(opt, [ConstantLR(opt, 0.5, 5), OneCycleLR(opt, 1.0, total_steps=20, cycle_momentum=False)], [2])


@pytest.mark.parametrize("make", [after_another, after_a_warmup, one_cycle_after_a_warmup])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_rates_of_cycles_are_not_shares_of_what_the_optimizer_had_before(make, after):
    """A CyclicLR brings its own base rates, the group may know another."""
    ours, theirs = taken_over(make, after, 9, [optimizer(), optimizer()])
    assert ours == near(theirs)


@pytest.mark.parametrize("optim", ["SGD", "AdamW"])
@pytest.mark.parametrize(
    "cycle",
    [lambda o: CyclicLR(o, BASES, 2.0, 4), lambda o: OneCycleLR(o, 2.0, total_steps=20)],
    ids=["CyclicLR", "OneCycleLR"],
)
def test_momentum_that_is_cycled_inside_others_is_refused(cycle, optim):
    opt = optimizer(optim, **({"momentum": 0.7} if optim == "SGD" else {}))
    scheduler = ChainedScheduler([cycle(opt)])
    with pytest.raises(sf.UserError, match="ChainedScheduler holds a scheduler that cycles the momentum"):
        from_torch(scheduler)


def chained(opt):
    return ChainedScheduler([ExponentialLR(opt, 0.9), StepLR(opt, 2)])


def chained_first(opt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR steps a chain before the optimizer, and warns of it
        return SequentialLR(opt, [chained(opt), ExponentialLR(opt, 0.8)], [2])


@pytest.mark.parametrize(
    "make",
    [chained_first, lambda opt: ChainedScheduler([chained(opt), ExponentialLR(opt, 0.8)])],
    ids=["in a row", "in a chain"],
)
def test_chains_may_be_nested(make):
    ours, theirs = taken_over(make, 3, 9, [optimizer(), optimizer()])
    assert ours == near(theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: OneCycleLR(o, [1.0, 0.0, 0.5], total_steps=20, cycle_momentum=False),
        lambda o: CosineAnnealingWarmRestarts(o, 20),
    ],
    ids=["OneCycleLR", "restarts"],
)
def test_a_group_may_have_the_rate_zero(make):
    ours, theirs = taken_over(make, 3, 9, [optimizer(bases=(1.0, 0.0, 0.5)) for _ in range(2)])
    assert ours == near(theirs)


def test_a_group_whose_rate_is_raised_from_zero_is_refused():
    scheduler = CosineAnnealingLR(optimizer(bases=(1.0, 0.0)), 20, eta_min=0.1)
    with pytest.raises(sf.UserError, match="CosineAnnealingLR raises the rate of group 1 from 0"):
        from_torch(scheduler)


def test_a_run_of_one_step():
    make = partial(OneCycleLR, max_lr=1.0, total_steps=1, cycle_momentum=False)
    ours, theirs = taken_over(make, 0, 0, [optimizer(), optimizer()])
    assert ours == near(theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: ChainedScheduler([LambdaLR(o, lambda t: 1 / (1 + t)), ExponentialLR(o, 0.5)]),
        lambda o: ChainedScheduler([CosineAnnealingLR(o, 10, eta_min=0.1), ExponentialLR(o, 0.5)]),
        lambda o: SequentialLR(o, [ConstantLR(o, 0.5), MultiplicativeLR(o, lambda t: 0.9)], [2]),
        lambda o: SequentialLR(
            o, [LambdaLR(o, lambda t: 1.0), OneCycleLR(o, 1.0, total_steps=9, cycle_momentum=False)], [5]
        ),
        lambda o: CosineAnnealingWarmRestarts(o, 4, eta_min=2.0),
        lambda o: CyclicLR(o, 0.1, 1.0, 4, 0, cycle_momentum=False),
        lambda o: LinearLR(o, 0.5, total_iters=0),
        lambda o: ConstantLR(o, 0.5, total_iters=0),
        lambda o: PolynomialLR(o, total_iters=0),
        lambda o: OneCycleLR(o, 1.0, total_steps=10, pct_start=0.6, three_phase=True, cycle_momentum=False),
    ],
    ids=[
        "one of a chain overwrites the others",
        "a chain with a floor",
        "factors on whatever the rate was",
        "a later one has changed the base rate",
        "restarts to above the rate",
        "cycles without a way down",
        "a line of no length",
        "a constant of no length",
        "a polynomial of no length",
        "a rise of more than half",
    ],
)
def test_rates_never_jump_where_it_takes_over(make):
    """They go on as they were, or it is refused."""
    opt = optimizer()
    scheduler = make(opt)
    walk(opt, scheduler, 3)
    before = values(opt)
    with contextlib.suppress(sf.UserError):
        from_torch(scheduler)
    assert values(opt) == pytest.approx(before)


def test_past_its_end_ours_holds():
    """The two differences that are meant: CosineAnnealingLR rises again, OneCycleLR raises."""
    opt = optimizer(bases=(1.0,))
    driver = from_torch(CosineAnnealingLR(opt, 3, eta_min=0.1))
    assert [rate for rate, _ in walk(opt, driver, 6)][3:] == [0.1] * 4
    opt = optimizer(bases=(1.0,))
    driver = from_torch(OneCycleLR(opt, 1.0, total_steps=4, cycle_momentum=False))
    assert [rate for rate, _ in walk(opt, driver, 9)][3:] == pytest.approx([4e-6] * 7)


def test_a_tensor_rate_stays_the_same_tensor():
    rate = torch.tensor(0.5)
    opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate)
    scheduler = ExponentialLR(opt, 0.5)
    walk(opt, scheduler, 2)
    driver = from_torch(scheduler)
    assert rate.item() == 0.125
    walk(opt, driver, 1)
    assert opt.param_groups[0]["lr"] is rate
    assert rate.item() == 0.0625


def test_it_can_be_saved_and_gone_on_with():
    opt = optimizer()
    scheduler = SCHEDULERS["SequentialLR"](opt, random.Random(0))
    walk(opt, scheduler, 5)
    driver = from_torch(scheduler)
    walk(opt, driver, 2)
    state = driver.state_dict()
    assert state == {"time": 7}
    fresh = optimizer()
    again = sf.schedule.drive(fresh, **driver.schedules)
    again.load_state_dict(state)
    assert walk(fresh, again, 5) == near(walk(opt, driver, 5))


class MyStep(StepLR):
    pass


class CosineAnnealing(lr_scheduler.LRScheduler):
    def get_lr(self):
        return self.base_lrs


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (CosineAnnealing, "CosineAnnealing is none of torch's schedulers (LambdaLR, MultiplicativeLR, StepLR"),
        (lambda o: MyStep(o, 3), "MyStep is none of torch's schedulers"),
        (lambda o: type("StepLR", (StepLR,), {})(o, 3), "StepLR is none of torch's schedulers"),
        (lambda o: SequentialLR(o, [StepLR(o, 3), MyStep(o, 3)], [2]), "MyStep is none of torch's schedulers"),
        (lambda o: o, "SGD is none of torch's schedulers"),
        (lambda o: None, "NoneType is none of torch's schedulers"),
        (lambda o: sf.schedule.drive(o, "cosine(3)"), "Driver is none of torch's schedulers"),
        (lambda o: CyclicLR(o, 0.1, 1.0, scale_fn=lambda x: 1.0, cycle_momentum=False), "a CyclicLR with a scale_fn"),
    ],
)
def test_what_is_refused(make, words):
    opt = optimizer()
    scheduler = make(opt)
    before = values(opt)
    with pytest.raises(sf.UserError) as error:
        from_torch(scheduler)
    assert words in str(error.value)
    assert values(opt) == before
