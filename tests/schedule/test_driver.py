from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surefoot as sf
from surefoot.schedule import cosine, drive, linear


def optimizer(*rates: float, module=sf.optim) -> torch.optim.Optimizer:
    return module.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates])


def rates(opt: torch.optim.Optimizer) -> list[float]:
    found = [group["lr"] for group in opt.param_groups]
    return [lr.item() if isinstance(lr, torch.Tensor) else lr for lr in found]


@pytest.mark.parametrize("module", [sf.optim, torch.optim])
def test_it_drives_any_optimizer_from_the_start(module):
    opt = optimizer(1.0, 0.1, module=module)
    sched = drive(opt, lr=linear(0.1, 1, 5) >> cosine(), total=200)
    assert rates(opt) == pytest.approx([0.1, 0.01])
    for _ in range(5):
        sched.step()
    assert rates(opt) == [1.0, 0.1]
    for _ in range(1000):
        sched.step()
    assert rates(opt) == [0, 0]


def test_text_will_do():
    opt = optimizer(1.0)
    drive(opt, lr="linear(0.5, 1, 5)")
    assert rates(opt) == [0.5]


@given(st.integers(0, 30), st.booleans())
def test_resuming_is_setting_the_time(k, driver_first):
    """Whatever is built or loaded first, the rates go on as if nothing had happened."""
    shape = linear(0.1, 1, 5) >> cosine(15, floor=0.1)
    opt = optimizer(0.7)
    sched = drive(opt, lr=shape)
    for _ in range(k):
        sched.step()
    saved = opt.state_dict(), sched.state_dict()

    fresh = optimizer(0.7)
    if driver_first:
        again = drive(fresh, lr=shape)
        again.load_state_dict(saved[1])
        fresh.load_state_dict(saved[0])
    else:
        fresh.load_state_dict(saved[0])
        again = drive(fresh, lr=shape)
        again.load_state_dict(saved[1])
    assert rates(fresh) == rates(opt)
    for _ in range(5):
        sched.step()
        again.step()
        assert rates(fresh) == rates(opt)


def test_groups_added_later_are_driven_too():
    opt = optimizer(1.0)
    sched = drive(opt, lr=cosine(2))
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 10.0})
    sched.step()
    assert rates(opt) == pytest.approx([0.5, 5.0])


def test_a_tensor_rate_stays_the_same_tensor():
    lr = torch.tensor(1.0)
    opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    sched = drive(opt, lr=cosine(2))
    sched.step()
    assert opt.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.5)


@pytest.mark.parametrize("module", [sf.optim, torch.optim])
def test_groups_may_share_one_tensor_rate(module):
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)]
    opt = module.SGD(groups, lr=torch.tensor(1.0, requires_grad=True))
    sched = drive(opt, lr=linear(0, 1, 4))
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    for _ in range(4):
        sched.step()
    assert rates(opt) == [1.0, 1.0, 1.0]


def test_a_second_driver_starts_from_the_same_base():
    opt = optimizer(1.0)
    for _ in range(2):  # torch's schedulers would start from where the first one ended, at 0
        sched = drive(opt, lr=cosine(3))
        for _ in range(3):
            sched.step()
    drive(opt, lr=cosine(3))
    assert rates(opt) == [1.0]


def test_nothing_of_the_optimizer_is_patched():
    opt = optimizer(1.0)
    before = dict(vars(opt))
    drive(opt, lr=cosine(3))
    assert vars(opt) == before


@pytest.mark.parametrize(
    ("optimizer", "lr", "words"),
    [
        (optimizer(1.0), 0.1, "lr must be a schedule"),
        (optimizer(1.0), lambda t: 1.0, "lr must be a schedule"),
        (torch.nn.Linear(1, 1), cosine(3), "must be an optimizer, not Linear"),
    ],
)
def test_mistakes_are_named(optimizer, lr, words):
    with pytest.raises(sf.UserError) as error:
        drive(optimizer, lr=lr)
    assert words in str(error.value)


@pytest.mark.parametrize("lr", ["cosine", "linear(0, 1, 5) >> cosine"])
def test_the_rest_of_the_run_must_be_known(lr):
    with pytest.raises(sf.UserError, match="say how long that is with total="):
        drive(optimizer(1.0), lr=lr)
    drive(optimizer(1.0), lr="step(30)")  # an endless shape needs no length
