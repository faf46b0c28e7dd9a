from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_driver import optimizer, rates
from torch.optim.lr_scheduler import ReduceLROnPlateau

import surefoot as sf
from surefoot import schedule as s
from surefoot.schedule import parse
from surefoot.schedule.plateau import Memory, without_progress

metrics = st.lists(st.one_of(st.floats(-5, 5), st.sampled_from([1.0, math.nan])), max_size=60)


def told(plateau, metrics) -> list[float]:
    """The rate after each telling."""
    opt = optimizer(1.0)
    driver = s.drive(opt, plateau)
    found = []
    for metric in metrics:
        driver.step(metric=metric)
        found += rates(opt)
    return found


def decays(metrics_told, patience: int, trigger: str = "slope", **more) -> list[int]:
    """After which tellings it fell."""
    found = [1.0, *told(s.plateau(0.5, patience, trigger=trigger, **more), metrics_told)]
    return [i for i in range(1, len(found)) if found[i] < found[i - 1]]


@settings(deadline=None, max_examples=200)
@given(
    metrics, st.floats(0, 0.99), st.integers(0, 4), st.floats(0, 0.5), st.sampled_from(["rel", "abs"]),
    st.integers(0, 4), st.sampled_from(["min", "max"]), st.floats(0, 0.5),
)  # fmt: skip
def test_it_falls_when_torchs_does(metrics, gamma, patience, threshold, threshold_mode, cooldown, mode, least):
    """But where the best is negative: there a relative threshold of torch's asks for the wrong side."""
    if threshold_mode == "rel":
        metrics = [abs(metric) for metric in metrics]
    opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = ReduceLROnPlateau(opt, mode, gamma, patience, threshold, threshold_mode, cooldown, least, eps=0)
    torchs = []
    for metric in metrics:
        theirs.step(metric)
        torchs.append(opt.param_groups[0]["lr"])
    ours = told(s.plateau(gamma, patience, threshold, threshold_mode, cooldown, mode, least), metrics)
    assert ours == pytest.approx(torchs, abs=1e-12)


def test_progress_of_negative_metrics():
    """Relative to the best's size: -10, -10.5 is progress by 5 %; torch's takes -9.2 for it."""
    metrics = [-10.0 - 0.5 * i for i in range(10)]
    assert set(told(s.plateau(0.5, patience=1, threshold=0.01), metrics)) == {1.0}
    assert min(told(s.plateau(0.5, patience=1, threshold=0.01), [-10.0, -9.9, -9.8, -9.7])) == 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_slopes_are_seen_under_noise_and_plateaus_too(seed, noise):
    """It does not fall while the loss does, whose fall in 300 steps is as large as the noise; and falls after that."""
    r = random.Random(seed)
    falling = [3 - i * noise / 100 + r.gauss(0, noise) for i in range(1200)]
    assert decays(falling, 300) == []
    flat = [falling[-1] + r.gauss(0, noise) for _ in range(1200)]
    (first, *_) = decays(falling + flat, 300)
    assert 1200 < first < 2000


def test_best_takes_noise_for_a_plateau_where_slope_does_not():
    r = random.Random(0)
    falling = [3 - i / 200 + r.gauss(0, 0.5) for i in range(400)]
    assert decays(falling, 50, "best")
    assert decays(falling, 100, "slope") == []


@pytest.mark.parametrize("spike", [50.0, 1e30, math.inf, math.nan])
def test_spikes_do_no_harm(spike):
    r = random.Random(1)
    falling = [3 - i / 200 + r.gauss(0, 0.05) for i in range(600)]
    with_spikes = [spike if i % 40 == 7 else value for i, value in enumerate(falling)]
    assert decays(with_spikes, 100) == decays(falling, 100) == []


@pytest.mark.parametrize("patience", [5, 40])
def test_a_constant_metric_is_a_plateau(patience):
    (first, second, *_) = decays([1.0] * 200, patience)
    assert patience < first <= patience + 3
    assert second - first == first


def test_accuracies_rise():
    rising = [i / 100 for i in range(100)]
    assert decays(rising, 20, mode="max") == []
    assert decays(rising, 20, mode="min") != []


@settings(deadline=None)
@given(metrics, metrics, st.sampled_from(["best", "slope"]))
def test_resumed_it_goes_on(before, after, trigger):
    plateau = s.cosine(50) * s.plateau(0.5, patience=3, cooldown=1, trigger=trigger)
    opts = optimizer(1.0), optimizer(1.0)
    first = s.drive(opts[0], plateau)
    for metric in before:
        first.step(metric=metric)
    again = s.drive(opts[1], plateau)
    again.load_state_dict(first.state_dict())
    for metric in after:
        assert rates(opts[0]) == rates(opts[1])
        first.step(metric=metric)
        again.step(metric=metric)
    assert rates(opts[0]) == rates(opts[1])


def test_it_multiplies_with_schedules_of_time():
    opt = optimizer(2.0)
    driver = s.drive(opt, parse("warmup(2) >> constant") * s.plateau(0.5, patience=0))
    found = []
    for metric in (3, 2, 2, 2):
        found += rates(opt)
        driver.step(metric=metric)
    assert [*found, *rates(opt)] == [0, 1, 2, 1, 0.5]


def test_what_is_remembered_is_bounded():
    memory, plateau = Memory(), s.plateau(patience=10, trigger="slope")
    for i in range(1000):
        memory.tell(plateau, -float(i))
    assert len(memory.told) <= 50
    assert memory.factor == 1


def test_stretches_without_progress():
    """While it falls no stretch is without progress, while it rises all are; of numbers of any size."""
    assert without_progress([-float(i) for i in range(30)], 0.51) == 0
    assert without_progress([1e9 + float(i) for i in range(30)], 0.51) == 30
    assert without_progress([1.0, 2.0], 0.51) == 0


@pytest.mark.parametrize("bad", ["high", torch.ones(2), [1]])
def test_a_metric_is_a_number(bad):
    driver = s.drive(optimizer(1.0), s.plateau())
    with pytest.raises(sf.UserError, match="is no number"):
        driver.step(metric=bad)


def test_steps_without_a_metric_tell_it_nothing():
    opt = optimizer(1.0)
    driver = s.drive(opt, s.plateau(0.5, patience=2))
    for metric in (1, None, None, 1, None, None, 1):
        driver.step() if metric is None else driver.step(metric=metric)
    assert rates(opt) == [1]
    driver.step(metric=1)
    assert rates(opt) == [0.5]


def test_a_state_of_something_else_is_refused():
    driver = s.drive(optimizer(1.0), s.plateau())
    with pytest.raises(sf.UserError, match="no state of a plateau"):
        driver.load_state_dict({"time": 3, "plateaus": [{"best": 1}]})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gamma": 1}, "gamma=1 must be less than 1"),
        ({"gamma": -0.1}, "gamma=-0.1 must be 0 or more"),
        ({"patience": 1.5}, "patience=1.5 must be a whole number"),
        ({"cooldown": -1}, "cooldown=-1 must be 0 or more"),
        ({"trigger": "mean"}, "unknown trigger of plateau mean"),
        ({"mode": "lower"}, "unknown mode of plateau lower"),
        ({"certain": 0.5}, "certain=0.5 must be above 0.5"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(sf.UserError) as error:
        s.plateau(**arguments)
    assert words in str(error.value)
