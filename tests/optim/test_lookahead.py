"""Lookahead against the paper's algorithm written out, around optimizers of surefoot and of torch; resuming it."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings

import processes
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_options import same
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict, set_state_dict

import surefoot as sf
from surefoot.optim import Lookahead

OPTIMIZERS = {
    "SGD": {"lr": 0.1},
    "AdamW": {"lr": 0.1, "weight_decay": 0.3},
    "Adagrad": {"lr": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True},
    "Adadelta": {"lr": 1.0},
    "NAdam": {"lr": 0.05},
    "ASGD": {"lr": 0.1},
    "Rprop": {"lr": 0.05},
}
BOTH = pytest.mark.parametrize("module", [sf, torch], ids=["ours", "torchs"])
SHAPES = [(4, 3), (5,), (2, 2)]


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def give(params: list[nn.Parameter], seed: int) -> None:
    """Gradients that pull to zero, with noise that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = (p.detach() + noise).to(p.dtype)


def steps(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for seed in range(first, last):
        give(params, seed)
        optimizer.step()


def build(module, name: str, options: dict, dtype: torch.dtype = torch.float64) -> tuple[list, torch.optim.Optimizer]:
    params = parameters(dtype)
    return params, getattr(module.optim, name)(params, **options)


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def through_a_file(saved: dict) -> dict:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def by_hand(module, name: str, options: dict, k: int, alpha: float, number: int) -> tuple[list[Tensor], list[Tensor]]:
    """Algorithm 1 of the paper: slow weights, and after every k steps of the bare optimizer what is done to them."""
    params, optimizer = build(module, name, options)
    slow = values(params)
    for seed in range(number):
        give(params, seed)
        optimizer.step()
        if (seed + 1) % k == 0:
            for i, p in enumerate(params):
                slow[i] = slow[i] + alpha * (p.detach() - slow[i])
                p.data = slow[i].clone()
    return values(params), slow


# --- what it does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "alpha"), [(1, 0.5), (3, 0.8), (5, 0.3)])
@pytest.mark.parametrize("name", OPTIMIZERS)
@BOTH
def test_it_is_the_papers_algorithm(module, name, k, alpha):
    params, optimizer = build(module, name, OPTIMIZERS[name])
    lookahead = Lookahead(optimizer, k=k, alpha=alpha)
    steps(params, optimizer, 0, 11)
    fast, slow = by_hand(module, name, OPTIMIZERS[name], k, alpha, 11)
    torch.testing.assert_close(values(params), fast, rtol=1e-9, atol=1e-10)
    with lookahead.averaged():
        torch.testing.assert_close(values(params), slow, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(values(params), fast, rtol=1e-9, atol=1e-10)
    assert lookahead.steps == 11


@BOTH
@settings(deadline=None, max_examples=20)
@given(k=st.integers(1, 6), number=st.integers(1, 12))
def test_with_alpha_1_or_a_far_horizon_nothing_changes(module, k, number):
    plain, optimizer = build(module, "AdamW", {"lr": 0.1})
    steps(plain, optimizer, 0, number)
    for given_k, alpha in ((k, 1.0), (100, 0.5)):
        params, optimizer = build(module, "AdamW", {"lr": 0.1})
        Lookahead(optimizer, k=given_k, alpha=alpha)
        steps(params, optimizer, 0, number)
        assert same(values(params), values(plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
@BOTH
def test_slow_weights_lie_in_memory_as_the_parameters_do(module, dtype):
    p = nn.Parameter(torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last))
    start = p.detach().clone()
    optimizer = module.optim.SGD([p], lr=0.5)
    Lookahead(optimizer, k=2)
    p.grad = torch.ones_like(p)
    optimizer.step()
    slow = optimizer.state[p]["slow"]
    assert (slow.dtype, slow.stride()) == (p.dtype, p.stride())
    assert torch.equal(slow, start)
    optimizer.step()
    torch.testing.assert_close(p.detach(), start - 0.5)
    assert torch.equal(slow, p)


def test_slow_weights_start_where_the_parameters_are_at_the_first_step():
    """And not where they were when the Lookahead was made: weights are often loaded in between."""
    params, optimizer = build(sf, "SGD", {"lr": 0.1})
    lookahead = Lookahead(optimizer)
    with torch.no_grad():
        for p in params:
            p.fill_(7)
    steps(params, optimizer, 0, 1)
    with lookahead.averaged():
        assert all((p == 7).all() for p in params)


@BOTH
def test_parameters_may_come_late_and_be_missing(module):
    """One has its first gradient in mid-cycle, one is added then, one never gets any and one is frozen."""
    params = [nn.Parameter(torch.full((2,), float(i), dtype=torch.float64)) for i in range(5)]
    params[3].requires_grad_(False)
    optimizer = module.optim.AdamW(params[:4], lr=0.1, weight_decay=0)
    lookahead = Lookahead(optimizer, k=4)
    for step in range(8):
        if step == 2:
            optimizer.add_param_group({"params": [params[4]]})
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if (i == 0 or (i in (1, 4) and step >= 2)) else None
        optimizer.step()
    # Adam's step is 0.1 along a constant gradient: back from 4 and 2 steps to half of it, twice
    found = [p[0].item() for p in params]
    assert found == pytest.approx([0 - 0.4, 1 - 0.3, 2, 3, 4 - 0.3], abs=1e-6)
    assert ["slow" in optimizer.state.get(p, {}) for p in params] == [True, True, False, False, True]
    assert lookahead.steps == 8


def test_a_closure_may_be_given():
    sides = []
    for wrapped in (False, True):
        params, optimizer = build(torch, "LBFGS", {"lr": 0.1, "max_iter": 3})
        if wrapped:
            Lookahead(optimizer, k=1, alpha=1.0)

        def closure(params=params, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = sum(p.pow(4).sum() for p in params)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        sides.append(values(params))
    assert same(*sides)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_mode_around_the_first_step_does_not_matter(mode):
    params, optimizer = build(sf, "SGD", {"lr": 0.1})
    Lookahead(optimizer, k=2)
    give(params, 0)
    with mode():
        optimizer.step()
    steps(params, optimizer, 1, 5)
    torch.testing.assert_close(values(params), by_hand(sf, "SGD", {"lr": 0.1}, 2, 0.5, 5)[0], rtol=1e-9, atol=1e-10)


# --- steps that are skipped ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 2, 3])
def test_a_skipped_step_does_not_count(bad):
    sides = []
    for spoilt in (False, True):
        params, optimizer = build(sf, "AdamW", {"lr": 0.1, "skip_nonfinite": True})
        lookahead = Lookahead(optimizer, k=2)
        for seed in range(5):
            if spoilt and seed == bad:
                give(params, 99)
                params[1].grad[0] = math.nan
                optimizer.step()
                assert optimizer.last.skipped
            steps(params, optimizer, seed, seed + 1)
        assert lookahead.steps == 5
        sides.append((values(params), optimizer.state_dict()))
    assert same(*sides)


@pytest.mark.parametrize("fused", [True, False])
@BOTH
def test_a_step_that_the_loss_scaler_skips_does_not_count(module, fused):
    """It calls fused optimizers of torch, and ours, in any case."""
    p = nn.Parameter(torch.ones(2))
    optimizer = module.optim.SGD([p], lr=0.25, fused=fused)
    lookahead = Lookahead(optimizer, k=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    for factor in (1.0, math.inf, 1.0, math.inf):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert lookahead.steps == 2
    assert p.tolist() == [0.75, 0.75]


# --- evaluating at the slow weights --------------------------------------------------------------------------------


@BOTH
def test_the_parameters_come_back_bit_for_bit_whatever_happens(module):
    params, optimizer = build(module, "AdamW", {"lr": 0.1}, torch.float32)
    lookahead = Lookahead(optimizer)
    with lookahead.averaged():  # before the first step there is nothing to put
        assert same(values(params), values(parameters(torch.float32)))
    start = values(params)
    steps(params, optimizer, 0, 3)
    before = values(params)
    with pytest.raises(ZeroDivisionError), lookahead.averaged():
        raise ZeroDivisionError if same(values(params), start) else AssertionError
    assert same(values(params), before)
    assert all(p.requires_grad for p in params)


@BOTH
def test_what_would_take_slow_weights_for_the_others_is_refused_inside(module):
    params, optimizer = build(module, "AdamW", {"lr": 0.1})
    lookahead = Lookahead(optimizer)
    steps(params, optimizer, 0, 3)
    with lookahead.averaged():
        for use in (optimizer.step, optimizer.state_dict, lookahead.remove, lambda: lookahead.averaged().__enter__()):
            with pytest.raises(sf.UserError, match="leave `with lookahead"):
                use()
    steps(params, optimizer, 3, 6)
    torch.testing.assert_close(
        values(params), by_hand(module, "AdamW", {"lr": 0.1}, 5, 0.5, 6)[0], rtol=1e-9, atol=1e-10
    )


def test_batch_norm_can_be_measured_at_the_slow_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    batches = [torch.randn(16, 3) for _ in range(4)]
    optimizer = sf.optim.SGD(net.parameters(), lr=0.5)
    lookahead = Lookahead(optimizer, k=100)
    twin = copy.deepcopy(net)
    for x in batches:
        optimizer.zero_grad()
        net(x).pow(4).sum().backward()
        optimizer.step()
    torch.optim.swa_utils.update_bn(batches, twin)
    with lookahead.averaged():
        sf.optim.refresh_batch_norm(net, batches)
        assert same(dict(net.state_dict()), dict(twin.state_dict()))
    assert torch.equal(net[1].running_mean, twin[1].running_mean)


# --- saving and resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
@BOTH
def test_training_resumes_to_the_last_bit(module, name, stop):
    params, optimizer = build(module, name, OPTIMIZERS[name], torch.float32)
    Lookahead(optimizer, k=3)
    steps(params, optimizer, 0, stop)
    saved, weights = through_a_file(optimizer.state_dict()), values(params)
    steps(params, optimizer, stop, 12)

    for first in ("lookahead", "load"):
        others, other = build(module, name, OPTIMIZERS[name], torch.float32)
        if first == "lookahead":
            Lookahead(other, k=3)
        other.load_state_dict(copy.deepcopy(saved))  # torch's keep what they are given
        if first == "load":
            Lookahead(other, k=3)
        with torch.no_grad():
            for p, weight in zip(others, weights, strict=True):
                p.copy_(weight)
        steps(others, other, stop, 12)
        assert same(values(others), values(params))
        assert same(other.state_dict(), optimizer.state_dict())


def test_a_parameter_without_a_state_yet_resumes_as_well():
    sides = []
    for resumed in (False, True):
        params, optimizer = build(torch, "AdamW", {"lr": 0.1})
        Lookahead(optimizer, k=4)
        for seed in range(8):
            if resumed and seed == 2:
                saved, weights = through_a_file(optimizer.state_dict()), values(params)
                params, optimizer = build(torch, "AdamW", {"lr": 0.1})
                Lookahead(optimizer, k=4)
                optimizer.load_state_dict(saved)
                for p, weight in zip(params, weights, strict=True):
                    p.data = weight
            give(params, seed)
            if seed < 3:
                params[1].grad = None
            optimizer.step()
        sides.append(values(params))
    assert same(*sides)


def test_slow_weights_go_by_name():
    names = dict(zip("abc", parameters(), strict=True))
    optimizer = sf.optim.AdamW([{"params": [("a", names["a"])]}, {"params": [(n, names[n]) for n in "bc"]}], lr=0.1)
    Lookahead(optimizer, k=3)
    steps(list(names.values()), optimizer, 0, 4)
    others = {name: nn.Parameter(p.detach().clone()) for name, p in names.items()}
    other = sf.optim.AdamW([{"params": [(n, others[n]) for n in "cb"]}, {"params": [("a", others["a"])]}], lr=0.1)
    lookahead = Lookahead(other, k=3)
    other.load_state_dict(optimizer.state_dict())
    assert lookahead.steps == 4
    for params, o in ((names, optimizer), (others, other)):
        steps([params[name] for name in "abc"], o, 4, 8)
    assert same(values(names.values()), values(others.values()))


def test_a_checkpoint_without_slow_weights_starts_them():
    params, optimizer = build(sf, "AdamW", {"lr": 0.1})
    steps(params, optimizer, 0, 3)
    others, other = build(sf, "AdamW", {"lr": 0.1})
    lookahead = Lookahead(other, k=100)
    steps(others, other, 5, 7)
    other.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        for p, value in zip(others, params, strict=True):
            p.copy_(value)
    steps(others, other, 3, 5)
    with lookahead.averaged():
        assert same(values(others), values(params))


def test_slow_weights_are_loaded_by_who_has_no_lookahead_and_saved_again():
    params, optimizer = build(sf, "AdamW", {"lr": 0.1})
    Lookahead(optimizer)
    steps(params, optimizer, 0, 3)
    other = build(sf, "AdamW", {"lr": 0.1})[1]
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())


def test_torchs_format_has_neither_slow_weights_nor_their_count():
    params, optimizer = build(sf, "AdamW", {"lr": 0.1})
    plain = build(sf, "AdamW", {"lr": 0.1})[1]
    Lookahead(optimizer, k=2)
    steps(params, optimizer, 0, 3)
    saved = optimizer.state_dict(format="torch")
    assert all(kept.keys() == {"step", "exp_avg", "exp_avg_sq"} for kept in saved["state"].values())
    assert same(saved["param_groups"], plain.state_dict(format="torch")["param_groups"])
    build(torch, "AdamW", {"lr": 0.1})[1].load_state_dict(saved)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_of_an_optimizer_of_ours_has_a_lookahead_of_its_own(way):
    params, optimizer = build(sf, "AdamW", {"lr": 0.1})
    Lookahead(optimizer, k=3)
    steps(params, optimizer, 0, 4)
    others, other = way((params, optimizer))
    steps(params, optimizer, 4, 9)
    steps(others, other, 4, 9)
    assert same(values(params), values(others))
    assert same(optimizer.state_dict(), other.state_dict())


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_master_copies_follow_the_slow_weights(rounding):
    """In bfloat16 alone they would lose their last 16 bits at each meeting."""
    options = {"lr": 0.01, "master_weights": True, "rounding": rounding}
    params, optimizer = build(sf, "SGD", options, torch.bfloat16)
    wide, reference = build(torch, "SGD", {"lr": 0.01})
    slow = values(wide)
    with torch.no_grad():
        for p, q in zip(params, wide, strict=True):
            q.copy_(p)
        slow = values(wide)
    Lookahead(optimizer, k=2)
    for seed in range(40):
        give(params, seed)
        for p, q in zip(params, wide, strict=True):
            q.grad = p.grad.double()
        optimizer.step()
        reference.step()
        if seed % 2:
            slow = [s + 0.5 * (q.detach() - s) for s, q in zip(slow, wide, strict=True)]
            for s, q in zip(slow, wide, strict=True):
                q.data = s.clone()
    for p, q in zip(params, wide, strict=True):
        kept = optimizer.state[p]
        assert kept["slow"].dtype == torch.float32
        torch.testing.assert_close(kept["master"].double(), q.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(p, kept["master"].bfloat16())


def test_master_copies_may_come_and_go_between_runs():
    for before, after in ((False, True), (True, False)):
        params, optimizer = build(sf, "SGD", {"lr": 0.1, "master_weights": before}, torch.bfloat16)
        Lookahead(optimizer, k=2)
        steps(params, optimizer, 0, 3)
        others, other = build(sf, "SGD", {"lr": 0.1, "master_weights": after}, torch.bfloat16)
        Lookahead(other, k=2)
        other.load_state_dict(optimizer.state_dict())
        with torch.no_grad():
            for p, q in zip(others, params, strict=True):
                p.copy_(q)
        for side, o in ((params, optimizer), (others, other)):
            steps(side, o, 3, 6)
        torch.testing.assert_close(values(others), values(params), rtol=2**-6, atol=2**-6)


def test_removing_it_leaves_no_trace():
    params, optimizer = build(sf, "AdamW", {"lr": 0.1})
    lookahead = Lookahead(optimizer, k=2)
    steps(params, optimizer, 0, 3)
    now = values(params)
    lookahead.remove()
    assert same(values(params), now)
    assert all("slow" not in kept for kept in optimizer.state.values())
    assert "lookahead_step" not in optimizer.param_groups[0]
    others, other = build(sf, "AdamW", {"lr": 0.1})
    other.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        for p, q in zip(others, params, strict=True):
            p.copy_(q)
    for side, o in ((params, optimizer), (others, other)):
        steps(side, o, 3, 6)
    assert same(values(params), values(others))
    Lookahead(optimizer)  # another one may come


# --- several processes ---------------------------------------------------------------------------------------------


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range, rank: int = 0, world: int = 1) -> None:
    for seed in seeds:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).chunk(world)[rank]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_a_checkpoint_of_torch_distributed_resumes_to_the_last_bit(tmp_path):
    sides = []
    for seed in range(2):
        model = net(seed)
        optimizer = sf.optim.AdamW(model.parameters(), lr=0.05)
        Lookahead(optimizer, k=3)
        sides.append((model, optimizer))
    train(*sides[0], range(4))
    saved, loaded = [dict(zip(("model", "optim"), get_state_dict(*side), strict=True)) for side in sides]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this is one process
        dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
        dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(*sides[1], model_state_dict=loaded["model"], optim_state_dict=loaded["optim"])
    for side in sides:
        train(*side, range(4, 9))
    assert same(*(dict(model.state_dict()) for model, _ in sides))
    assert same(*(optimizer.state_dict() for _, optimizer in sides))


@BOTH
def test_torch_may_probe_for_states(module):
    model = net(0)
    before = copy.deepcopy(dict(model.state_dict()))
    optimizer = module.optim.AdamW(model.parameters())
    Lookahead(optimizer, k=1)
    assert all("slow" in kept for kept in get_optimizer_state_dict(model, optimizer)["state"].values())
    assert same(dict(model.state_dict()), before)


def sharded(rank: int, world: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    for name, module in (("ours", sf), ("torchs", torch)):
        model = fully_shard(net(0), mesh=mesh)
        optimizer = module.optim.AdamW(model.parameters(), lr=0.05)
        lookahead = Lookahead(optimizer, k=3)
        train(model, optimizer, range(8), rank, world)
        found = [p.full_tensor().detach() for p in model.parameters()]
        with lookahead.averaged():
            found += [p.full_tensor().detach() for p in model.parameters()]
        if rank == 0:
            torch.save(found, f"{folder}/{name}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_sharded_parameters_go_the_way_of_one_process(tmp_path):
    processes.run(sharded, tmp_path)
    model = net(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    lookahead = Lookahead(optimizer, k=3)
    train(model, optimizer, range(8))
    right = values(model.parameters())
    with lookahead.averaged():
        right += values(model.parameters())
    for name in ("ours", "torchs"):
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), right, rtol=1e-4, atol=1e-5)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k=0: it must be a whole number, 1 or more"),
        ({"k": 2.5}, "k=2.5"),
        ({"k": True}, "k=True"),
        ({"alpha": 0}, "alpha=0: it must be a number above 0, up to 1"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"alpha": "half"}, "alpha='half'"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    optimizer = build(sf, "SGD", {})[1]
    with pytest.raises(sf.UserError, match=words):
        Lookahead(optimizer, **options)
    assert not optimizer._optimizer_step_post_hooks


def test_what_it_cannot_follow_is_refused():
    with pytest.raises(sf.UserError, match=r"it follows a torch.optim.Optimizer, not a list"):
        Lookahead(parameters())
    with pytest.raises(sf.UserError, match="ScheduleFreeAdamW averages its own steps"):
        Lookahead(sf.optim.ScheduleFreeAdamW(parameters()))
    optimizer = build(sf, "SGD", {})[1]
    Lookahead(optimizer)
    with pytest.raises(sf.UserError, match=r"has one already: call its remove\(\) first"):
        Lookahead(optimizer)


def test_steps_in_the_backward_pass_are_refused():
    p = nn.Parameter(torch.ones(2))
    optimizer = sf.optim.SGD([p], lr=0.1)
    Lookahead(optimizer)
    handle = optimizer.step_in_backward()
    p.sum().backward()
    with pytest.raises(sf.UserError, match=r"Lookahead: with step_in_backward the parameters move too early"):
        optimizer.step()
    handle.remove()
    optimizer.step()
