from __future__ import annotations

import copy
import pickle

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
        (optimizer(1.0), 0.1, "lr must be a schedule, not 0.1: such as"),
        (optimizer(1.0), lambda t: 1.0, "wrap it: sf.schedule.function(...)"),
        (optimizer(1.0), None, "nothing to drive"),
        (optimizer(1.0), ["cosine(3)", "cosine(3)"], "lr has 2 schedules for 1 groups"),
        (optimizer(1.0), {1: "cosine(3)"}, "there is no group 1; they are 0 to 0"),
        (optimizer(1.0), (cosine(3), cosine(3)), "cannot take a tuple of 2 schedules"),
        (optimizer(1.0), "warmup(3ep) >> cosine(5)", "3ep: say how many steps an epoch has with steps_per_epoch="),
        (optimizer(1.0), "warmup(5%) >> cosine(5)", "5% of the run: say how long that is with total="),
        (optimizer(1.0), "cosine(9tok)", "9tok: say how many tokens a step takes with tokens_per_step="),
        (optimizer(1.0), "cosine(9st)", "9st: say that steps are what is counted"),
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"momentun": cosine(3)}, "momentun: did you mean momentum?"),
        ({"nesterov": cosine(3)}, "unknown hyper-parameter of SGD: nesterov"),
        ({"lr": cosine(3), "total": 0}, "total=0 must be a number above 0"),
        ({"lr": cosine(3), "steps_per_epoch": -1}, "steps_per_epoch=-1 must be a number above 0"),
    ],
)
def test_arguments_that_cannot_be(arguments, words):
    opt = optimizer(1.0)
    with pytest.raises(sf.UserError) as error:
        drive(opt, **arguments)
    assert words in str(error.value)
    assert rates(opt) == [1.0]
    assert "initial_lr" not in opt.param_groups[0]


@pytest.mark.parametrize("module", [sf.optim, torch.optim])
def test_any_hyper_parameter_can_be_driven(module):
    opt = module.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.5, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-3)
    sched = drive(
        opt, "linear(1, 0, 4)", weight_decay="linear(1, 3, 4)", betas=(None, "linear(1, 0.5, 4)"), eps=linear(1, 0, 4)
    )
    for _ in range(2):
        sched.step()
    (group,) = opt.param_groups
    found = [group["lr"], group["weight_decay"], *group["betas"], group["eps"]]
    assert found == pytest.approx([0.25, 0.4, 0.8, 0.675, 0.5e-3])
    drive(opt, betas="linear(0.5, 1, 4)")  # one alone drives the first
    assert group["betas"] == pytest.approx((0.4, 0.675))


def test_driven_hyper_parameters_are_what_the_step_uses():
    w = torch.nn.Parameter(torch.ones(1))
    opt = sf.optim.SGD([w], lr=1.0, momentum=0.5, weight_decay=0.0)
    sched = drive(opt, momentum="constant(1, 1) >> constant(0)", total=10)
    for _ in range(3):
        w.grad = torch.ones(1)
        opt.step()
        sched.step()
    assert w.item() == 1 - 1 - 1 - 1  # no momentum from the second step on


def test_groups_may_have_schedules_of_their_own():
    opt = optimizer(1.0, 1.0, 1.0)
    drive(opt, lr=["constant(0.5)", None, "constant(0.25)"])
    assert rates(opt) == [0.5, 1.0, 0.25]
    drive(opt, lr={1: "constant(0.125)"})
    assert rates(opt) == [0.5, 0.125, 0.25]


def test_units_are_worked_out_once():
    opt = optimizer(1.0)
    sched = drive(
        opt, lr="warmup(2ep) >> constant(1, 10%) >> cosine(4096sa)", total=100, steps_per_epoch=7, samples_per_step=64
    )
    assert sched.schedules["lr"] == sf.schedule.warmup(14) >> sf.schedule.constant(1, 10) >> cosine(64)


def trained(opt: torch.optim.Optimizer, value: float = 1.0) -> None:
    for group in opt.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, value)


@pytest.mark.parametrize("often", [1, 3])
@pytest.mark.parametrize("module", [sf.optim, torch.optim])
def test_steps_that_a_loss_scaler_skips_do_not_count(module, often):
    """Also where several steps make one unit of time."""
    opt = optimizer(1.0, module=module)
    sched = drive(opt, lr=linear(0, 1, 8))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    times = []
    for bad in (True, False, True, True, False, False):
        for _ in range(often):
            trained(opt, torch.inf if bad else 1.0)
            scaler.scale(torch.ones(1))
            scaler.step(opt)
            scaler.update()
        sched.step()
        times.append(sched.time)
    assert times == [0, 1, 1, 1, 2, 3]


def test_steps_that_are_skipped_for_a_nan_do_not_count():
    opt = sf.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, skip_nonfinite=True)
    sched = drive(opt, lr=linear(0, 1, 8))
    for value in (1.0, torch.nan, 1.0):
        trained(opt, value)
        opt.step()
        sched.step()
    assert sched.time == 2


class Late:
    """A report of a step that a device has not finished."""

    late = True

    def __init__(self, skipped: bool) -> None:
        self.ready, self._skipped = False, skipped

    @property
    def skipped(self) -> bool:
        assert self.ready, "this would wait for the device"
        return self._skipped


def test_what_a_device_tells_late_is_made_up_for_one_step_later():
    opt = optimizer(1.0)
    sched = drive(opt, lr=linear(0, 1, 8))
    times = []
    before = None
    for skipped in (False, True, True, False, False):
        opt.step()
        report = Late(skipped)
        opt.last = report
        sched._moved, sched._late = False, None
        sched.after(opt)
        if before is not None:
            before.ready = True
        sched.step()
        times.append(sched.time)
        before = report
    assert times == [1, 2, 2, 2, 3]  # at most one step ahead: 1, 1, 1, 2, 3 were taken


def test_calls_without_a_step_count_only_before_training():
    opt = optimizer(1.0)
    sched = drive(opt, lr=linear(0, 1, 8))
    sched.step()
    assert sched.time == 1  # nothing is trained: somebody walks through it
    trained(opt)
    sched.step()
    assert sched.time == 1
    opt.step()
    sched.step()
    sched.step()
    assert sched.time == 2


def test_a_group_that_is_added_is_driven_from_its_first_step_on():
    opt = optimizer(1.0)
    sched = drive(opt, lr=linear(0, 1, 4))
    sched.step()
    late = torch.nn.Parameter(torch.zeros(1))
    opt.add_param_group({"params": [late], "lr": 8.0})
    trained(opt)
    opt.step()
    assert late.item() == -8.0 / 4


def test_a_driver_that_is_gone_leaves_the_optimizer_alone():
    opt = optimizer(1.0)
    hooks = len(opt._optimizer_step_post_hooks)
    sched = drive(opt, lr=linear(0, 1, 4))
    assert len(opt._optimizer_step_post_hooks) == hooks + 1
    del sched
    assert len(opt._optimizer_step_post_hooks) == hooks


@pytest.mark.parametrize("state", [{}, {"time": -1}, {"time": 1.5}, {"time": 3, "plateaus": [{}]}])
def test_a_state_that_is_none_changes_nothing(state):
    opt = optimizer(1.0)
    sched = drive(opt, lr=linear(0, 1, 4))
    sched.step()
    with pytest.raises(sf.UserError, match="no state of such a driver"):
        sched.load_state_dict(state)
    assert (sched.time, rates(opt)) == (1, [0.25])


def test_it_shows_and_can_be_called():
    sched = drive(optimizer(1.0), lr="warmup(4) >> cosine", total=8)
    assert repr(sched) == "Driver(SGD, lr=warmup(4) >> cosine(4), time=0)"
    assert sched(2) == 0.5


def test_a_metric_that_is_no_number_changes_nothing():
    sched = drive(optimizer(1.0), lr=cosine(4) * sf.schedule.plateau())
    for metric in ("low", torch.ones(2)):
        with pytest.raises(sf.UserError, match="is no number"):
            sched.step(metric=metric)
    assert sched.time == 0


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("module", [sf.optim, torch.optim])
def test_a_copy_goes_its_own_way(module, way):
    opt = optimizer(1.0, module=module)
    sched = drive(opt, lr=linear(0, 1, 4) * sf.schedule.plateau(0.5, patience=0))
    other, again = way((opt, sched))
    for _ in range(2):
        trained(other)
        other.step()
        again.step(metric=1.0)
    assert (again.time, rates(other)) == (2, [0.25])
    sched.step()  # nobody has trained the first one
    assert (sched.time, rates(opt)) == (1, [0.25])
