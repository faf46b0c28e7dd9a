"""Ours in the place of torch's: the same arguments, groups, state_dict, hooks, closures and schedulers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest
import torch
from cases import ALL, CASES, IDS, replay, trajectory
from torch import nn

import surefoot as sf

NAMES = list(CASES)
LATE = ("ASGD", "Rprop")  # a new rate has its effect a step later, or none
SINGLE = ("ASGD", "NAdam")  # torch keeps numbers of theirs in single precision


def twins(name: str, options: dict, seed: int = 0) -> tuple[list, list, torch.optim.Optimizer, torch.optim.Optimizer]:
    """Two copies of the same parameters, one with our optimizer and one with torch's."""
    torch.manual_seed(seed)
    ours = [nn.Parameter(torch.randn(4, 3, dtype=torch.float64)), nn.Parameter(torch.randn(5, dtype=torch.float64))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    return ours, theirs, getattr(sf.optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)


def step(*sides: tuple[list, torch.optim.Optimizer], seed: int) -> None:
    """One step of each side with the same random gradients."""
    for params, optimizer in sides:
        torch.manual_seed(seed)
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()


def assert_same(ours: list, theirs: list, rtol: float = 1e-12) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol / 100)


@pytest.mark.parametrize("name", NAMES)
def test_the_constructor_is_torchs(name):
    """The same arguments, then the engine's options."""
    ours, theirs = (inspect.signature(getattr(m.optim, name)).parameters.values() for m in (sf, torch))
    own = [(f.name, inspect.Parameter.KEYWORD_ONLY, f.default) for f in dataclasses.fields(sf.optim.Options)]
    assert [(p.name, p.kind, p.default) for p in ours] == [*((p.name, p.kind, p.default) for p in theirs), *own]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_torch_optimizer(name):
    assert isinstance(getattr(sf.optim, name)([torch.ones(1, requires_grad=True)]), torch.optim.Optimizer)


@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_checkpoints_go_both_ways(name, options):
    """Five steps on either side, then each continues the other's run and nothing shows."""
    ours, theirs, opt, reference = twins(name, options)
    for seed in range(5):
        step((ours, opt), (theirs, reference), seed=seed)
    near = 1e-6 if name in SINGLE else 1e-12
    assert_same(ours, theirs, near)
    ours_saved, theirs_saved = opt.state_dict(format="torch"), copy.deepcopy(reference.state_dict())
    assert layout(ours_saved) == layout(theirs_saved)
    opt.load_state_dict(theirs_saved)
    reference.load_state_dict(ours_saved)
    for seed in range(5, 10):
        step((ours, opt), (theirs, reference), seed=seed)
    assert_same(ours, theirs, near)


def layout(state_dict: dict) -> tuple:
    """Keys, shapes and types of a state_dict, without the order of the keys."""
    groups = [sorted((k, v if k != "params" else len(v)) for k, v in g.items()) for g in state_dict["param_groups"]]
    state = {
        i: {k: (v.shape, v.dtype, v.device) for k, v in sorted(kept.items())} for i, kept in state_dict["state"].items()
    }
    return groups, state


@pytest.mark.parametrize("name", NAMES)
def test_state_before_the_first_step_is_torchs(name):
    _, _, opt, reference = twins(name, {})
    assert layout(opt.state_dict()) == layout(reference.state_dict())


@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_complex_parameters(name, options):
    start, gradients = trajectory("mlp", 50, seed=1)
    pair = [[torch.view_as_complex(torch.stack([t, t.flip(0)], -1)) for t in ts] for ts in (start, *gradients)]
    truth = replay(getattr(torch.optim, name), options, pair[0], pair[1:], torch.complex128)
    ours, theirs = (replay(getattr(m.optim, name), options, pair[0], pair[1:], torch.complex64) for m in (sf, torch))
    errors = [
        sum(float((p - t).abs().square().sum()) for p, t in zip(side, truth, strict=True)) for side in (ours, theirs)
    ]
    assert errors[0] <= 4 * errors[1]  # squares: at most twice torch's own


@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_a_tensor_learning_rate(name, options):
    lr = options.get("lr", 1e-2)
    a, _, by_number, _ = twins(name, {**options, "lr": lr})
    b, _, by_tensor, _ = twins(name, {**options, "lr": torch.tensor(lr, dtype=torch.float64)})
    for seed in range(5):
        step((a, by_number), (b, by_tensor), seed=seed)
    assert_same(a, b)
    by_tensor.param_groups[0]["lr"].fill_(0)
    before = [p.detach().clone() for p in b]
    if not options.get("momentum") and name not in LATE:
        step((b, by_tensor), seed=9)
        assert_same(b, before)


SMOOTH = [case for case in ALL if case[0] != "Rprop"]  # its steps are signs times a size: nothing to differentiate


@pytest.mark.parametrize(
    ("name", "options"), SMOOTH, ids=[i for i, case in zip(IDS, ALL, strict=True) if case in SMOOTH]
)
def test_differentiable_steps(name, options):
    """The gradient through three steps, with respect to parameters, gradients, rate and decay, is the numerical one."""
    options = {"weight_decay": 0.1, **options}
    if name == "RMSprop" and options.get("centered"):
        options["eps"] = 0.1  # else the root of a variance that is zero at first has no derivative

    def after(start, grads, lr, decay):
        p = start.clone()
        kwargs = {**options, "lr": lr, "weight_decay": decay}
        opt = getattr(sf.optim, name)([p], differentiable=True, **kwargs)
        for grad in grads:
            p.grad = grad
            opt.step()
        return p

    torch.manual_seed(3)
    inputs = (torch.randn(4), torch.randn(3, 4), torch.tensor(0.1), torch.tensor(0.2))
    assert torch.autograd.gradcheck(after, [t.double().requires_grad_() for t in inputs])


FLAGS = [{"foreach": True}, {"foreach": False}, {"fused": True}]


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        (n, flag)
        for n in NAMES
        for flag in FLAGS
        if flag.keys() <= inspect.signature(getattr(torch.optim, n)).parameters.keys()
    ],
)
def test_foreach_and_fused_change_nothing(name, flag):
    a, _, plain, _ = twins(name, {})
    b, _, flagged, _ = twins(name, flag)
    for seed in range(3):
        step((a, plain), (b, flagged), seed=seed)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_groups_have_their_own_options_and_can_be_added():
    ours, theirs, _, _ = twins("Adam", {})
    sides = []
    for params, module in ((ours, sf.optim), (theirs, torch.optim)):
        opt = module.AdamW([{"params": params[:1], "lr": 1e-2, "weight_decay": 0.3}])
        opt.add_param_group({"params": params[1:], "betas": (0.5, 0.9)})
        sides.append((params, opt))
    for seed in range(4):
        step(*sides, seed=seed)
    assert_same(ours, theirs)


def test_hooks_closures_and_missing_gradients():
    ours, _, opt, _ = twins("SGD", {"lr": 0.1})
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("pre"))
    opt.register_step_post_hook(lambda *_: seen.append("post"))

    def closure():
        assert torch.is_grad_enabled()
        opt.zero_grad()
        loss = ours[0].square().sum()
        loss.backward()
        return loss

    before = ours[1].detach().clone()
    assert opt.step(closure).item() > 0
    assert seen == ["pre", "post"]
    assert torch.equal(ours[1], before)  # it has no gradient
    assert opt.step() is None


def test_torchs_schedulers_drive_it():
    ours, theirs, opt, reference = twins("AdamW", {"lr": 0.1})
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20) for o in (opt, reference)]
    for seed in range(10):
        step((ours, opt), (theirs, reference), seed=seed)
        for scheduler in schedulers:
            scheduler.step()
    assert_same(ours, theirs)


def test_zero_grad():
    ours, _, opt, _ = twins("SGD", {})
    step((ours, opt), seed=0)
    opt.zero_grad(set_to_none=False)
    assert all(p.grad.abs().sum() == 0 for p in ours)
    opt.zero_grad()
    assert all(p.grad is None for p in ours)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alone(clone):
    ours, _, opt, _ = twins("Adam", {})
    step((ours, opt), seed=0)
    twin = clone(opt)
    copies = twin.param_groups[0]["params"]
    step((ours, opt), (copies, twin), seed=1)
    assert_same(ours, copies)


def test_momentum_can_be_switched_on_later():
    ours, theirs, opt, reference = twins("SGD", {"lr": 0.1})
    step((ours, opt), (theirs, reference), seed=0)
    for o in (opt, reference):
        o.param_groups[0]["momentum"] = 0.9
    for seed in range(1, 4):
        step((ours, opt), (theirs, reference), seed=seed)
    assert_same(ours, theirs)


def test_checkpoints_of_old_torch_versions_load():
    """They lack newer keys, hold the step count as a number, and an unused momentum buffer as None."""
    ours, _, opt, _ = twins("Adam", {})
    step((ours, opt), seed=0)
    old = copy.deepcopy(opt.state_dict())
    for kept in old["state"].values():
        kept["step"] = 1
    for key in ("foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay", "maximize"):
        del old["param_groups"][0][key]
    opt.load_state_dict(old)
    step((ours, opt), seed=1)
    assert opt.state[ours[0]]["step"].item() == 2

    ours, _, opt, _ = twins("SGD", {"momentum": 0.9})
    opt.load_state_dict({**opt.state_dict(), "state": {0: {"momentum_buffer": None}}})
    step((ours, opt), seed=1)
    assert opt.state[ours[0]]["momentum_buffer"] is not None


def test_a_checkpoint_of_adam_leaves_adamw_decoupled():
    opt = twins("AdamW", {})[2]
    saved = twins("Adam", {"lr": 0.5})[2].state_dict()
    opt.load_state_dict(saved)
    assert (opt.param_groups[0]["lr"], opt.param_groups[0]["decoupled_weight_decay"]) == (0.5, True)


def test_rates_of_one_element_fit_parameters_without_dimensions():
    p = nn.Parameter(torch.tensor(1.0))
    p.grad = torch.tensor(1.0)
    sf.optim.SGD([p], lr=torch.tensor([0.5])).step()
    assert p.item() == 0.5


def test_adagrads_sums_can_be_shared():
    ours, _, opt, _ = twins("Adagrad", {})
    opt.share_memory()
    assert all(opt.state[p]["sum"].is_shared() for p in ours)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SGD", {"lr": -0.1}, "SGD: lr=-0.1: it must be 0 or more"),
        ("SGD", {"lr": float("nan")}, "lr=nan"),
        ("SGD", {"momentum": -1}, "momentum=-1"),
        ("SGD", {"nesterov": True}, "nesterov=True needs momentum"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening 0"),
        ("SGD", {"lr": torch.ones(2)}, "one element"),
        ("SGD", {"maximize": "no"}, "maximize='no': it must be True or False"),
        ("SGD", {"dampening": "a"}, "dampening='a': it must be a number"),
        ("SGD", {"fused": 3}, "fused=3"),
        ("Adam", {"amsgrad": 1}, "amsgrad=1"),
        ("SGD", {"lr": "0.1"}, "lr='0.1': it must be a number"),
        ("Adam", {"betas": (0.9, 1.0)}, "betas=(0.9, 1.0): it must be two numbers"),
        ("Adam", {"betas": 0.9}, "betas=0.9"),
        ("Adam", {"betas": (0.9,)}, "betas=(0.9,)"),
        ("Adam", {"eps": -1e-8}, "eps=-1e-08"),
        ("AdamW", {"weight_decay": -1}, "weight_decay=-1"),
        ("RMSprop", {"alpha": -1}, "alpha=-1"),
        ("Adagrad", {"lr_decay": -1}, "lr_decay=-1"),
        ("Adagrad", {"initial_accumulator_value": -1}, "initial_accumulator_value=-1"),
    ],
)
def test_bad_hyperparameters_are_refused(name, options, words):
    cls, p = getattr(sf.optim, name), nn.Parameter(torch.ones(1))
    with pytest.raises(sf.UserError) as as_argument:
        cls([p], **options)
    with pytest.raises(sf.UserError) as in_group:
        cls([{"params": [p], **options}])
    assert words in str(as_argument.value)
    assert words in str(in_group.value)


def test_a_refused_checkpoint_changes_nothing():
    ours, _, opt, _ = twins("AdamW", {})
    step((ours, opt), seed=0)
    before = copy.deepcopy(opt.state_dict())
    bad = copy.deepcopy(before)
    bad["param_groups"][0]["eps"] = -1
    bad["state"][0]["exp_avg"].zero_()
    with pytest.raises(sf.UserError, match="eps=-1"):
        opt.load_state_dict(bad)
    assert opt.param_groups[0]["eps"] == 1e-8
    assert torch.equal(opt.state[ours[0]]["exp_avg"], before["state"][0]["exp_avg"])


@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_count_as_the_dense_ones_they_stand_for(name):
    tables = [nn.Embedding(50, 4, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    optimizers = [getattr(sf.optim, name)([*t.parameters(), nn.Parameter(torch.ones(3))], lr=0.1) for t in tables]
    for seed in range(3):
        rows = torch.randint(50, (6,), generator=torch.Generator().manual_seed(seed))
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            table(rows).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight)


@pytest.mark.parametrize(
    ("params", "error"), [([], ValueError), (torch.ones(2), TypeError), ([{"lr": 1}], KeyError), ([1], TypeError)]
)
def test_bad_parameters_are_refused_as_torch_does(params, error):
    for module in (sf.optim, torch.optim):
        with pytest.raises(error):
            module.SGD(params, lr=0.1)
