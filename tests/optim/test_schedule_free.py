"""Schedule-Free optimizers: what is evaluated and saved is the average, and training goes on as if nothing had been."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import swa_utils

import surefoot as sf

NAMES = ["schedule-free-sgd", "schedule-free-adamw"]
KINDS = {
    "fp32": (torch.float32, {}),
    "fp64": (torch.float64, {}),
    "bf16": (torch.bfloat16, {}),
    "bf16 with wide states": (torch.bfloat16, {"state_dtype": "fp32"}),
    "bf16 with master copies": (torch.bfloat16, {"state_dtype": "fp32", "master_weights": True}),
}


class Training:
    """A small model and its optimizer."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
        self.opt = sf.optim.create(name, self.model, lr=0.05, **options)
        self.dtype = dtype

    def steps(self, begin: int, end: int) -> None:
        self.model.train()
        for t in range(begin, end):
            torch.manual_seed(100 + t)
            x, y = torch.randn(16, 4), torch.randint(2, (16,))
            self.opt.zero_grad()
            F.cross_entropy(self.model(x.to(self.dtype)).float(), y).backward()
            self.opt.step()

    @property
    def params(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]

    def x(self) -> list[Tensor]:
        """The averages, worked out in double precision."""
        group = self.opt.param_groups[0]
        beta, state = group.get("momentum", group.get("betas", [0])[0]), self.opt.state
        pairs = [(state[p].get("master", p).detach().double(), state[p]["z"].double()) for p in self.model.parameters()]
        return [y + (1 - 1 / beta) * (z - y) for y, z in pairs]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_averages_take_the_parameters_place_and_give_it_back(name, kind):
    dtype, options = KINDS[kind]
    run, twin = (Training(name, dtype, **options) for _ in range(2))
    for begin in (0, 5):
        for each in (run, twin):
            each.steps(begin, begin + 5)
        y, x = run.params, run.x()
        with run.opt.averaged():
            assert run.opt.holds_averages
            assert not equal(run.params, y)
            eps = torch.finfo(dtype).eps
            for p, q in zip(run.params, x, strict=True):
                torch.testing.assert_close(p.double(), q, rtol=2 * eps, atol=2 * eps)
        assert not run.opt.holds_averages
        assert equal(run.params, y)
    assert equal(run.params, twin.params)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_is_that_of_the_steps(name):
    """x is the mean of all z where rates and r are constant."""
    run, points = Training(name, torch.float64), []
    for t in range(20):
        run.steps(t, t + 1)
        points.append([run.opt.state[p]["z"].clone() for p in run.model.parameters()])
    with run.opt.averaged():
        for p, zs in zip(run.params, zip(*points, strict=True), strict=True):
            torch.testing.assert_close(p, torch.stack(zs).mean(0), rtol=1e-10, atol=1e-12)


def test_errors_inside_give_the_place_back_and_it_may_be_entered_twice():
    run = Training("schedule-free-adamw")
    run.steps(0, 3)
    y = run.params
    with run.opt.averaged():
        with run.opt.averaged(), run.opt.evaluating():
            x = run.params
        assert equal(run.params, x)
    assert equal(run.params, y)
    with pytest.raises(KeyError), run.opt.averaged():
        raise KeyError
    assert equal(run.params, y)
    run.steps(3, 4)


def test_nothing_happens_before_the_first_step():
    run = Training("schedule-free-sgd")
    y = run.params
    run.model.eval()
    with torch.no_grad():
        run.model(torch.ones(3, 4))
    run.model.state_dict()
    run.opt.eval()
    assert equal(run.params, y)
    run.steps(0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_loop_written_for_the_authors_code_runs_as_it_is(name):
    run, twin = Training(name), Training(name)
    for epoch in range(3):
        run.opt.train()
        run.steps(4 * epoch, 4 * epoch + 4)
        run.opt.eval()
        run.opt.eval()
        run.model.eval()
        with torch.no_grad():
            run.model(torch.ones(3, 4))
        run.model.state_dict()
    run.opt.train()
    twin.steps(0, 12)
    assert equal(run.params, twin.params)


def test_a_step_from_the_averages_is_refused():
    run = Training("schedule-free-adamw")
    run.steps(0, 3)
    before = copy.deepcopy(run.opt.state_dict()["state"])
    run.opt.eval()
    x = run.params
    with pytest.raises(sf.UserError, match=r"leave `with optimizer\.averaged\(\)`, or call optimizer\.train\(\)"):
        run.steps(3, 4)
    assert equal(run.params, x)
    run.opt.train()
    after = run.opt.state_dict()["state"]
    assert all(torch.equal(after[i][key], before[i][key]) for i in before for key in before[i])
    run.steps(3, 4)


@pytest.mark.parametrize("order", ["model first", "optimizer first"])
@pytest.mark.parametrize("inside", [True, False], ids=["averaged", "trained"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_from_what_was_saved_bit_for_bit(name, kind, inside, order):
    dtype, options = KINDS[kind]
    run = Training(name, dtype, warmup_steps=8, **options)
    run.steps(0, 5)
    y, file = run.params, io.BytesIO()
    if inside:
        with run.opt.averaged():
            x = run.params
            torch.save([run.model.state_dict(), run.opt.state_dict()], file)
    else:
        weights = {key: value.detach() for key, value in [*run.model.named_parameters(), *run.model.named_buffers()]}
        torch.save([weights, run.opt.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file)

    again = Training(name, dtype, seed=7, **options)
    loads = [lambda: again.model.load_state_dict(weights), lambda: again.opt.load_state_dict(state)]
    for load in loads if order == "model first" else reversed(loads):
        load()
    if inside:
        assert again.opt.holds_averages
        assert equal(again.params, x)
        with pytest.raises(sf.UserError, match=r"call optimizer\.train\(\)"):
            again.steps(5, 6)
        again.model.load_state_dict(weights)  # the statistics of batch norm have seen that batch
        again.opt.train()
    assert equal(again.params, y)
    for each in (run, again):
        each.steps(5, 12)
    assert equal(run.params, again.params)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_know_where_training_was(clone):
    p = nn.Parameter(torch.ones(3))
    opt = sf.optim.ScheduleFreeSGD([p], lr=0.1)
    for _ in range(3):
        p.grad = p.detach().clone()
        opt.step()
    y = p.detach().clone()
    with opt.averaged():
        twin = clone(opt)
        (q,) = twin.param_groups[0]["params"]
        assert torch.equal(p, q)
    assert twin.holds_averages
    assert not torch.equal(p, q)
    twin.train()
    assert torch.equal(q, y)


def test_a_second_average_over_it_is_refused():
    with pytest.raises(sf.UserError, match="Lookahead: ScheduleFreeSGD averages its own steps"):
        sf.optim.Lookahead(sf.optim.ScheduleFreeSGD([nn.Parameter(torch.ones(1))]))


def test_parameters_that_never_moved_are_their_own_average():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = sf.optim.ScheduleFreeSGD([a, b], lr=0.1)
    for _ in range(3):
        a.grad = torch.ones(2)
        opt.step()
    with opt.averaged():
        assert b.tolist() == [1, 1]
        assert set(opt.state_dict()["state"]) == {0}
    assert b.tolist() == [1, 1]


@pytest.mark.parametrize("narrow", ["bf16", "fp16", "8bit"])
def test_z_is_never_narrower_than_the_parameter(narrow):
    p = nn.Parameter(torch.ones(8192))
    opt = sf.optim.ScheduleFreeAdamW([p], state_dtype=narrow)
    p.grad = torch.ones_like(p)
    opt.step()
    assert opt.state[p]["z"].dtype == torch.float32
    assert opt.state[p]["exp_avg_sq"].dtype != torch.float32
    with opt.averaged():
        assert p[0].item() == pytest.approx(1 - 0.0025, rel=1e-5)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"cautious": True}])
def test_what_does_not_go_with_it_is_refused(options):
    for cls in (sf.optim.ScheduleFreeSGD, sf.optim.ScheduleFreeAdamW):
        with pytest.raises(sf.UserError, match=f"{next(iter(options))}=.*leave it out"):
            cls([nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SGD", {"momentum": 0.0}, "momentum=0.0: it must be above 0 and below 1"),
        ("SGD", {"momentum": 1.0}, "momentum=1.0"),
        ("SGD", {"warmup_steps": -1}, "warmup_steps=-1"),
        ("AdamW", {"betas": (0.0, 0.9)}, "betas=(0.0, 0.9): the first must be above 0"),
        ("AdamW", {"r": "a"}, "r='a': it must be a number"),
        ("AdamW", {"weight_lr_power": None}, "weight_lr_power=None"),
    ],
)
def test_bad_hyperparameters_are_refused(name, options, words):
    with pytest.raises(sf.UserError) as error:
        getattr(sf.optim, f"ScheduleFree{name}")([nn.Parameter(torch.ones(1))], **options)
    assert words in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_steps_in_the_backward_pass_are_the_same(name):
    run, twin = Training(name), Training(name)
    twin.opt.step_in_backward()
    for each in (run, twin):
        each.steps(0, 5)
    with run.opt.averaged(), twin.opt.averaged():
        assert equal(run.params, twin.params)
        with pytest.raises(sf.UserError, match="the parameters hold their averages"):
            twin.steps(5, 6)


def test_other_optimizers_can_be_put_in_its_place():
    run = Training("adamw")
    run.steps(0, 3)
    before = run.params
    run.opt.eval()
    with run.opt.evaluating():
        assert equal(run.params, before)
        assert not run.opt.holds_averages
    run.opt.train()
    run.model.eval().state_dict()
    with torch.no_grad():
        run.model(torch.ones(3, 4))


# --- the guard -----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained() -> Training:
    run = Training("schedule-free-adamw")
    run.steps(0, 3)
    return run


def evaluated(run: Training) -> Tensor:
    run.model.eval()
    with torch.no_grad():
        return run.model(torch.ones(3, 4))


AWAY = {
    "evaluate": (evaluated, "evaluate inside `with optimizer.averaged"),
    "evaluate in inference mode": (torch.inference_mode()(evaluated), "evaluate inside"),
    "evaluate in a wrapper": (
        lambda run: torch.no_grad()(nn.Sequential(run.model).eval())(torch.ones(3, 4)),
        "evaluate inside",
    ),
    "save": (lambda run: run.model.state_dict(), "save inside `with optimizer.averaged"),
    "save in a wrapper": (lambda run: nn.Sequential(run.model).state_dict(), "save inside"),
    "pickle": (lambda run: pickle.dumps(run.model), "save inside"),
}


@pytest.mark.parametrize("do", AWAY)
def test_the_wrong_weights_are_neither_evaluated_nor_saved(trained, do):
    act, words = AWAY[do]
    with pytest.raises(sf.UserError) as error:
        act(trained)
    assert words in str(error.value)
    with trained.opt.averaged():
        act(trained)
    trained.steps(3, 4)
    with pytest.raises(sf.UserError):
        act(trained)


def test_training_and_looking_at_gradients_are_let_through(trained):
    trained.model.train()
    with torch.no_grad():
        trained.model(torch.ones(3, 4))
    trained.model.eval()
    trained.model(torch.ones(3, 4)).sum().backward()


def test_the_guard_ends(trained):
    model = nn.Linear(4, 2)
    opt = sf.optim.ScheduleFreeSGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 4)).sum().backward()
    opt.step()
    guard = opt.guard(model)
    with pytest.raises(sf.UserError):
        model.state_dict()
    guard.remove()
    model.state_dict()
    opt.guard(model)
    del opt, guard
    gc.collect()
    model.state_dict()  # there is no optimizer any more that could average


def test_copies_of_the_model_are_free(trained):
    other = copy.deepcopy(trained.model)
    other.eval().state_dict()
    with torch.no_grad():
        other(torch.ones(3, 4))
    with trained.opt.averaged():
        text, outputs = pickle.dumps(trained.model), evaluated(trained)
    assert b"surefoot" not in text  # it can be loaded where there is none
    other = pickle.loads(text)
    other.state_dict()
    with torch.no_grad():
        assert torch.equal(other.eval()(torch.ones(3, 4)), outputs)


def test_what_is_made_of_parameters_alone_is_not_guarded():
    model = nn.Linear(4, 2)
    opt = sf.optim.create("schedule-free-sgd", model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    opt.step()
    model.state_dict()


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch.compile may not know it yet")
def test_a_compiled_model_runs(trained):
    compiled = torch.compile(trained.model, backend="eager")
    trained.model.train()
    before = compiled(torch.ones(3, 4))
    assert before.requires_grad
    with trained.opt.averaged(), torch.no_grad():
        compiled.eval()(torch.ones(3, 4))


# --- batch norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["schedule-free", "ema"])
def test_batch_norm_is_measured_at_the_averages(kind):
    run = Training("schedule-free-adamw") if kind == "schedule-free" else Training("adamw", ema=0.9)
    run.steps(0, 10)
    run.model[0].eval()
    batches = [torch.randn(16, 4) for _ in range(5)]
    with run.opt.averaged():
        twin = copy.deepcopy(run.model)
    swa_utils.update_bn(batches, twin)
    before, momentum = run.params, run.model[1].momentum
    torch.manual_seed(3)
    random = torch.get_rng_state()
    run.model.append(nn.Dropout())
    run.opt.refresh_batch_norm(run.model, [(x, "targets") for x in batches])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(run.model[1], name), getattr(twin[1], name))
    assert equal(run.params, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in run.model] == [False, True, True, True, True]
    assert run.model[1].momentum == momentum
    if kind == "schedule-free":
        with run.opt.averaged():
            run.opt.refresh_batch_norm(run.model, batches, lambda batch: run.model(batch))
            assert run.opt.holds_averages
    assert torch.equal(run.model[1].running_mean, twin[1].running_mean)


def test_without_batch_norm_no_batch_is_asked_for():
    model = nn.Linear(4, 2)
    opt = sf.optim.create("schedule-free-sgd", model)
    opt.refresh_batch_norm(model, (pytest.fail("asked") for _ in range(1)))
