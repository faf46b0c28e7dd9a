"""Ours among torch's own tools: schedulers, SWA, torch.compile, hooks, gradients made in every way there is."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.distributed.checkpoint as dcp
from cases import ALL, CASES, IDS
from test_dropin import assert_same, step, twins
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict, set_state_dict
from torch.nn.utils import clip_grad_norm_
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import surefoot as sf

pytestmark = pytest.mark.usefixtures("numbers_in_double")

NAMES = list(CASES)
MODULES = (sf.optim, torch.optim)


def model(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    # without the bias that batch norm takes away: its gradient is rounding error and nothing else
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def batch(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sides(name: str, **options) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    """The same model twice, with ours and with torch's optimizer."""
    models = [model() for _ in MODULES]
    return [(m, getattr(o.optim, name)(m.parameters(), **options)) for m, o in zip(models, (sf, torch), strict=True)]


def train(net: nn.Module, opt: torch.optim.Optimizer, seed: int) -> torch.Tensor:
    opt.zero_grad()
    loss = net(batch(seed, next(net.parameters()).dtype)).square().mean()
    loss.backward()
    opt.step()
    return loss.detach()


def assert_same_models(pairs: list[tuple[nn.Module, torch.optim.Optimizer]]) -> None:
    (ours, _), (theirs, _) = pairs
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-10, atol=1e-12)


# --- learning rate schedulers --------------------------------------------------------------------------------------

SCHEDULERS = {
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 3, 0.5),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5], 0.3),
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda t: 0.9),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, 0.1, total_iters=4),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 0.1, total_iters=3),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 6, 2),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.8),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 6),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3, 2),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, 12, cycle_momentum=type(opt).__name__ == "SGD"),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 1e-3, 0.1, 3, cycle_momentum=False),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(opt, 5)], [3]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
}


@pytest.mark.parametrize("kind", ["float", "tensor"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", NAMES)
def test_torchs_schedulers_drive_ours_as_they_drive_torchs(name, scheduler, kind):
    options = {"momentum": 0.9} if name == "SGD" else {}
    ours, theirs, opt, reference = twins(name, {"lr": 0.05, **options})
    if kind == "tensor":  # schedulers write into the tensor
        opt = getattr(sf.optim, name)(ours, lr=torch.tensor(0.05, dtype=torch.float64), **options)
    driven = [SCHEDULERS[scheduler](o) for o in (opt, reference)]
    rates = set()
    for seed in range(10):
        step((ours, opt), (theirs, reference), seed=seed)
        rates.add(float(opt.param_groups[0]["lr"]))
        for each in driven:
            each.step()
        assert float(opt.param_groups[0]["lr"]) == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
    assert len(rates) > 1  # it was driven at all
    assert_same(ours, theirs)


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "CyclicLR"])
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("RMSprop", {"momentum": 0.9}), ("Adam", {})]
)
def test_schedulers_may_cycle_the_momentum(name, options, scheduler):
    ours, theirs, opt, reference = twins(name, {"lr": 0.01, **options})
    driven = [
        lr_scheduler.OneCycleLR(o, 0.1, 12) if scheduler == "OneCycleLR" else lr_scheduler.CyclicLR(o, 1e-3, 0.1, 3)
        for o in (opt, reference)
    ]
    seen = set()
    for seed in range(10):
        step((ours, opt), (theirs, reference), seed=seed)
        seen.add(opt.param_groups[0]["betas"][0] if name == "Adam" else opt.param_groups[0]["momentum"])
        for each in driven:
            each.step()
    assert len(seen) > 1
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_falls_on_a_plateau(name):
    ours, theirs, opt, reference = twins(name, {"lr": 0.1})
    driven = [lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1) for o in (opt, reference)]
    for seed, metric in enumerate([3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]):
        step((ours, opt), (theirs, reference), seed=seed)
        for each in driven:
            each.step(metric)
    assert opt.param_groups[0]["lr"] == reference.param_groups[0]["lr"] < 0.1
    assert_same(ours, theirs)


def test_what_schedulers_write_into_groups_is_saved_and_loaded():
    _, _, opt, _ = twins("SGD", {"momentum": 0.9})
    lr_scheduler.OneCycleLR(opt, 0.1, 12)
    other = twins("SGD", {})[2]
    other.load_state_dict(opt.state_dict())
    for copied in (other, copy.deepcopy(opt)):
        keys = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "base_momentum", "max_momentum")
        assert [copied.param_groups[0][key] for key in keys] == [opt.param_groups[0][key] for key in keys]


# --- stochastic weight averaging -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_swa_averages_what_it_averages_with_torchs(name):
    averages, pairs = [], sides(name, lr=0.05)
    for net, opt in pairs:
        average, scheduler = swa_utils.AveragedModel(net), swa_utils.SWALR(opt, swa_lr=0.01, anneal_epochs=3)
        for seed in range(6):
            train(net, opt, seed)
            average.update_parameters(net)
            scheduler.step()
        swa_utils.update_bn([batch(seed) for seed in range(3)], average)
        averages.append((average, opt))
    assert_same_models(pairs)
    assert_same_models(averages)
    assert pairs[0][1].param_groups[0]["swa_lr"] == 0.01


# --- torch.compile -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_trains(backend):
    torch.compiler.reset()
    pairs = sides("AdamW", lr=0.05)
    compiled = torch.compile(pairs[0][0], backend=backend)
    opt = sf.optim.AdamW(compiled.named_parameters(), lr=0.05, clip_norm=1e9)
    for seed in range(3):
        assert train(compiled, opt, seed) == pytest.approx(train(*pairs[1], seed).item())
    assert_same_models(pairs)
    assert all(name.startswith("_orig_mod.") for name in opt.last.grad_norms)


# --- closures and hooks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_closure_is_called_once_and_what_it_returns_comes_back(name):
    (net, opt), _ = sides(name)
    losses = []

    def closure() -> torch.Tensor:
        opt.zero_grad()
        losses.append(net(batch(0)).square().mean())
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():  # in which a closure may still compute gradients
        assert opt.step(closure) is losses[0]
    assert opt.step(closure=closure) is losses[1]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert opt.step() is None


def test_what_a_closure_raises_comes_through_and_nothing_moves():
    (net, opt), _ = sides("Adam")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ZeroDivisionError):
        opt.step(lambda: 1 / 0)
    torch.testing.assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)
    assert not opt.state


@contextmanager
def globally(log: list):
    """Hooks on every optimizer there is."""
    hooks = [
        register_optimizer_step_pre_hook(lambda opt, args, kwargs: log.append("global pre")),
        register_optimizer_step_post_hook(lambda opt, args, kwargs: log.append("global post")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def test_hooks_of_all_kinds_are_called_in_torchs_order():
    heard = []
    for module in MODULES:
        log, p = [], nn.Parameter(torch.ones(1))
        opt = module.SGD([p], lr=0.5)
        p.grad = torch.ones(1)
        opt.register_step_pre_hook(lambda opt, args, kwargs, log=log: log.append("pre"))
        opt.register_step_pre_hook(lambda opt, args, kwargs, log=log: log.append(("args", len(args), sorted(kwargs))))
        opt.register_step_post_hook(lambda opt, args, kwargs, log=log, p=p: log.append(("post", p.item())))
        removed = opt.register_step_post_hook(lambda opt, args, kwargs, log=log: log.append("removed"))
        with globally(log):
            opt.step()
            removed.remove()
            opt.step(closure=lambda log=log: log.append("closure"))
        opt.step()
        heard.append(log)
    assert heard[0] == heard[1]
    assert "global pre" in heard[0]
    assert heard[0].count("removed") == 1


def test_a_pre_hook_may_change_the_arguments():
    (_, opt), _ = sides("SGD")
    opt.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: "from the hook"), {}))
    assert opt.step() == "from the hook"


# --- torch.distributed.checkpoint ----------------------------------------------------------------------------------

KINDS = {
    "single": (torch.float32, {}),
    "averaged": (torch.float32, {"ema": 0.9, "clip_norm": 0.1}),
    "master": (torch.bfloat16, {"master_weights": True, "state_dtype": "fp32", "ema": 0.9}),
    "by chance": (torch.bfloat16, {"rounding": "stochastic", "cautious": True}),
}


def checkpointed(case: tuple[str, dict], kind: str, seed: int = 0, **more) -> tuple[nn.Module, torch.optim.Optimizer]:
    (name, options), (dtype, engine) = case, KINDS[kind]
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    return net, getattr(sf.optim, name)(net.named_parameters(), **{**options, **engine, **more})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_torch_may_probe_an_optimizer_for_its_states(case, kind):
    """It takes a step of rate 0 with gradients of zero, to see which states there are."""
    net, opt = checkpointed(case, kind)
    before = copy.deepcopy(net.state_dict())
    found = get_optimizer_state_dict(net, opt)
    assert all(torch.equal(p, before[key]) for key, p in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert opt.param_groups[0]["lr"] == opt.defaults["lr"]
    train(net, opt, 0)
    trained = opt.state_dict()["state"]
    assert [set(kept) for kept in found["state"].values()] == [set(kept) for kept in trained.values()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_a_checkpoint_of_torch_distributed_goes_on_as_if_nothing_had_been(tmp_path, case, kind):
    sides = [checkpointed(case, kind), checkpointed(case, kind, seed=1, lr=0.5)]
    for seed in range(3):
        train(*sides[0], seed)
    saved, loaded = [dict(zip(("model", "optim"), get_state_dict(*side), strict=True)) for side in sides]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this is one process
        dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
        dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(*sides[1], model_state_dict=loaded["model"], optim_state_dict=loaded["optim"])
    for seed in range(3, 6):
        for side in sides:
            train(*side, seed)
    states = [opt.state_dict() for _, opt in sides]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for key, kept in states[0]["state"].items():
        assert all(torch.equal(value, states[1]["state"][key][name]) for name, value in kept.items())
    assert all(map(torch.equal, *(net.parameters() for net, _ in sides)))


# --- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_cleared_either_way_give_torchs_results(name, set_to_none):
    pairs = sides(name)
    for net, opt in pairs:
        for seed in range(3):
            net(batch(seed)).square().mean().backward()
            opt.step()
            opt.zero_grad(set_to_none=set_to_none)
            assert all((p.grad is None) if set_to_none else not p.grad.any() for p in net.parameters())
    assert_same_models(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_add_up_over_several_backward_passes(name):
    pairs = sides(name)
    for net, opt in pairs:
        for seed in range(3):
            for part in range(4):
                (net(batch(10 * seed + part)).square().mean() / 4).backward()
            opt.step()
            opt.zero_grad()
    assert_same_models(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_clipped_by_hand_are_taken_as_they_are(name):
    pairs = sides(name)
    for net, opt in pairs:
        for seed in range(3):
            opt.zero_grad()
            net(batch(seed)).square().mean().backward()
            clip_grad_norm_(net.parameters(), 0.01)
            opt.step()
    assert_same_models(pairs)
    assert pairs[0][1].last.grad_norm == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("engine", [{}, {"zero_grad_in_step": True, "clip_norm": 1e9}], ids=["plain", "clearing"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_have_a_graph_are_numbers_all_the_same(name, engine):
    """A gradient penalty: .grad comes from create_graph=True, and its graph must not get into the states."""
    (ours, theirs), (opt, reference) = zip(*sides(name), strict=True)
    opt = getattr(sf.optim, name)(ours.parameters(), **engine)
    for net, o in ((ours, opt), (theirs, reference)):
        for seed in range(3):
            params = list(net.parameters())
            for p, g in zip(params, penalized(net, params, seed), strict=True):
                assert g.requires_grad
                p.grad = g
            o.step()
    assert_same_models([(ours, opt), (theirs, reference)])
    states = [value for kept in opt.state.values() for value in kept.values()]
    assert not any(value.requires_grad for value in [*states, *(p.grad for p in params if engine and net is ours)])
    assert all(p.is_leaf for p in ours.parameters())


def penalized(net: nn.Module, params: list, seed: int) -> list[torch.Tensor]:
    """Gradients with a graph of their own."""
    return list(torch.autograd.grad(net(batch(seed)).pow(4).mean(), params, create_graph=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", MODULES, ids=["ours", "torchs"])
def test_a_graph_that_was_kept_is_refused_after_the_step_has_written_over_it(name, module):
    """Autograd must notice that the weights it has kept are others now."""
    net = model()
    opt = getattr(module, name)(net.parameters())
    loss = net(batch(0)).square().mean()
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)  # before the step all is well
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- around and between steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05, dtype=torch.float64)], ids=["compiled", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_the_mode_around_the_step_does_not_matter(name, lr, mode):
    pairs = sides(name, lr=0.05)
    pairs[0][1].param_groups[0]["lr"] = lr
    for net, opt in pairs:
        for seed in range(3):
            opt.zero_grad()
            net(batch(seed)).square().mean().backward()
            with mode():
                opt.step()
    assert_same_models(pairs)
    assert all(p.requires_grad and p.is_leaf for p in pairs[0][0].parameters())


@pytest.mark.parametrize("name", NAMES)
def test_groups_can_be_added_between_steps(name):
    ours, theirs, opt, reference = twins(name, {})
    step((ours, opt), (theirs, reference), seed=0)
    new = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in MODULES]
    for p, o, params in zip(new, (opt, reference), (ours, theirs), strict=True):
        o.add_param_group({"params": [p], "lr": 0.5})
        params.append(p)
    for seed in range(1, 4):
        step((ours, opt), (theirs, reference), seed=seed)
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_can_be_frozen_and_thawed(name):
    pairs = sides(name)
    for net, opt in pairs:
        for seed in range(6):
            net[0].requires_grad_(seed not in (2, 3))
            train(net, opt, seed)
    assert_same_models(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_in_shared_memory_stay_there(name):
    """As Hogwild needs it: the step writes into the parameters and puts no others in their place."""
    net = model().share_memory()
    opt = getattr(sf.optim, name)(net.parameters())
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in net.named_parameters()}
    train(net, opt, 0)
    for key, (p, address, value) in before.items():
        assert dict(net.named_parameters())[key] is p
        assert p.is_shared()
        assert p.data_ptr() == address
        assert not torch.equal(p, value)


@pytest.mark.parametrize("name", NAMES)
def test_sharing_the_memory_between_steps_does_not_lose_the_plan(name):
    """share_memory() moves the parameters, so what was known of their addresses is wrong."""
    pairs = sides(name)
    for net, opt in pairs:
        train(net, opt, 0)
        net.share_memory()
        train(net, opt, 1)
        train(net, opt, 2)
    assert_same_models(pairs)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}], ids=str)
def test_a_model_may_become_double_where_there_is_no_state(options):
    pairs = sides("SGD", lr=0.05, **options)
    for net, opt in pairs:
        net.float()
        for seed, dtype in enumerate((torch.float32, torch.float64, torch.float64)):
            net.to(dtype)
            opt.zero_grad()
            net(batch(seed, dtype)).square().mean().backward()
            opt.step()
    (ours, _), (theirs, _) = pairs
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_may_become_double_between_steps(name):
    """States stay in single precision, and the steps go on; torch's Adam raises an error."""
    options = {"lr": 0.05, **({"momentum": 0.9} if name == "SGD" else {})}
    (ours, opt), (theirs, reference) = sides(name, **options)
    ours.float()
    for seed in range(4):
        dtype = torch.float32 if seed < 2 else torch.float64
        ours.to(dtype)
        for net, o, x in ((ours, opt, batch(seed, torch.float64).to(dtype)), (theirs, reference, batch(seed))):
            o.zero_grad()
            net(x).square().mean().backward()
            o.step()
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-4, atol=1e-4)
    assert all(p.dtype == torch.float64 for p in ours.parameters())


def test_data_that_is_replaced_between_steps_is_taken_up():
    """`p.data = ...` gives a parameter other memory under the same object."""
    ours, theirs, opt, reference = twins("Adam", {})
    for seed in range(4):
        for p in (*ours, *theirs):
            if seed == 2:
                p.data = p.data * 0.5
        step((ours, opt), (theirs, reference), seed=seed)
    assert_same(ours, theirs)


def test_parameters_may_be_replaced_in_their_group():
    """As torch.nn.utils.prune or a resized embedding does: another object in the list."""
    ours, theirs, opt, reference = twins("Adam", {})
    for seed in range(4):
        for params, o in ((ours, opt), (theirs, reference)):
            if seed == 2:
                params[1] = nn.Parameter(torch.ones(7, dtype=torch.float64))
                o.param_groups[0]["params"][1] = params[1]
        step((ours, opt), (theirs, reference), seed=seed)
    assert_same(ours, theirs)


def test_a_state_may_be_cleared_between_steps():
    ours, theirs, opt, reference = twins("Adam", {})
    for seed in range(4):
        for o in (opt, reference):
            if seed == 2:
                o.state.clear()
        step((ours, opt), (theirs, reference), seed=seed)
    assert_same(ours, theirs)
