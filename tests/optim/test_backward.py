"""Steps in the backward pass: the usual weights, and gradients that never exist all at once."""

from __future__ import annotations

import copy
import pickle

import processes
import pytest
import torch
from cases import ALL, IDS
from torch import nn

import surefoot as sf

ENGINES = {
    "plain": {},
    "averaged": {"ema": 0.9, "cautious": True, "clip_value": 1e-3, "zero_grad_in_step": True},
    "by chance": {"rounding": "stochastic"},
    "master": {"master_weights": True, "state_dtype": "fp32"},
}
HALF = ("by chance", "master")


class Net(nn.Module):
    """A layer used twice, one that is used in every third pass only, and one without gradients."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.twice, self.rare = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last, self.frozen = nn.Linear(8, 2), nn.Linear(2, 2).requires_grad_(False)
        self.to(dtype)

    def forward(self, x: torch.Tensor, rare: bool = False) -> torch.Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.twice(torch.tanh(self.first(x))))))
        return self.frozen(self.last(self.rare(x) if rare else x))


def loss(net: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)).to(next(net.parameters()).dtype)
    return net(x, seed % 3 == 0).square().mean()


def pair(name: str = "AdamW", dtype: torch.dtype = torch.float32, **options) -> list[tuple]:
    """The same model and optimizer twice, in two groups with names."""
    found = []
    for _ in range(2):
        net = Net(dtype)
        named = list(net.named_parameters())
        groups = [{"params": named[:3], "lr": 0.02, "weight_decay": 0.1}, {"params": named[3:]}]
        found.append((net, getattr(sf.optim, name)(groups, **options)))
    return found


def train(net: nn.Module, opt: sf.optim.Optimizer, seeds, passes: int = 1, after=lambda: None) -> None:
    for seed in seeds:
        opt.zero_grad()
        for part in range(passes):
            loss(net, seed + 10 * part).backward()
        opt.step()
        after()


def assert_same(sides: list[tuple]) -> None:
    (net, opt), (other, twin) = sides
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert opt.state.get(p, {}).keys() == twin.state.get(q, {}).keys()
        assert all(torch.equal(value, twin.state[q][key]) for key, value in opt.state.get(p, {}).items())


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_weights_and_states_are_those_of_the_usual_step(case, kind):
    sides = pair(case[0], torch.bfloat16 if kind in HALF else torch.float32, **{**case[1], **ENGINES[kind]})
    sides[1][1].step_in_backward()
    for side in sides:
        train(*side, range(7))
    assert_same(sides)


def test_the_report_is_of_all_parameters():
    sides = pair()
    sides[1][1].step_in_backward()
    for seed in range(2):
        for side in sides:
            train(*side, [seed])
        usual, ours = (opt.last for _, opt in sides)
        assert ours.stepped
        assert ours.grad_norm == pytest.approx(usual.grad_norm)
        for name in ("grad_norms", "update_ratio", "cosine"):
            assert getattr(ours, name) == pytest.approx(getattr(usual, name))
        assert ours.clip_factors == usual.clip_factors == [1.0, 1.0]


def test_parameters_without_names_are_called_as_ever():
    net = nn.Linear(4, 2)
    opt = sf.optim.SGD([{"params": [net.weight]}, {"params": [net.bias]}])
    opt.step_in_backward()
    net(torch.ones(4)).sum().backward()
    opt.step()
    assert sorted(opt.last.grad_norms) == ["group 0, parameter 0", "group 1, parameter 0"]


def test_parameters_move_in_the_backward_pass_and_gradients_never_live_together():
    net = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(8)))
    size = 32 * 32 * 4
    opt = sf.optim.SGD(net.parameters(), lr=0.1)
    alive, before = [], [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():  # a hook of ours comes first, and sees the gradient before the optimizer does
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad.nbytes for q in net.parameters() if q.grad is not None))
        )
    net(torch.randn(4, 32)).square().sum().backward()
    assert max(alive) == 8 * size
    alive.clear()
    opt.zero_grad()
    opt.step_in_backward()
    net(torch.randn(4, 32)).square().sum().backward()
    assert alive == [size] * 8
    assert all(p.grad is None for p in net.parameters())
    assert not any(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize("passes", [2, 3])
def test_gradients_of_several_passes_add_up_to_one_step(passes):
    """A layer that the last pass does not reach moves when `step` closes the step."""
    sides = pair(ema=0.9)
    sides[1][1].step_in_backward(every=passes)
    for side in sides:
        train(*side, range(7), passes)
    assert_same(sides)


def test_each_backward_pass_is_a_step_of_its_own():
    sides = pair()
    sides[1][1].step_in_backward()
    train(*sides[0], range(4))
    net, opt = sides[1]
    for seed in range(4):
        loss(net, seed).backward()
    opt.step()
    assert_same(sides)


def test_schedules_hooks_and_closures_work():
    sides = pair()
    sides[1][1].step_in_backward()
    heard = []
    for net, opt in sides:
        opt.register_step_post_hook(lambda *_: heard.append("stepped"))
        plateau = torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)
        train(net, opt, range(4), after=plateau.step)

        def closure(net=net, opt=opt) -> torch.Tensor:
            opt.zero_grad()
            found = loss(net, 4)
            found.backward()
            return found

        assert opt.step(closure) > 0
    assert heard == ["stepped"] * 10
    assert sides[0][1].param_groups[0]["lr"] == sides[1][1].param_groups[0]["lr"] < 0.02
    assert_same(sides)


def test_saving_loading_copying_and_removing():
    sides = pair(ema=0.9, rounding="stochastic")
    (net, opt), (other, twin) = sides
    handle = opt.step_in_backward()
    train(net, opt, range(3))
    other.load_state_dict(net.state_dict())
    twin.load_state_dict(opt.state_dict())
    twin.step_in_backward()
    for side in sides:
        train(*side, range(3, 5))
    assert_same(sides)
    opt.load_state_dict(opt.state_dict())  # and the hooks are still there
    for side in sides:
        train(*side, [5])
    assert_same(sides)
    for clone in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        p = clone.param_groups[0]["params"][0]
        before = p.detach().clone()
        p.sum().backward()
        assert torch.equal(p, before)  # a copy takes the usual steps
        clone.step()
        assert not torch.equal(p, before)
    handle.remove()
    handle.remove()
    before = copy.deepcopy(net.state_dict())
    loss(net, 6).backward()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    opt.step()
    train(other, twin, [6])
    assert_same(sides)
    opt.step_in_backward()  # it can be had again


def test_groups_that_are_added_and_layers_that_thaw_are_followed():
    sides = pair()
    sides[1][1].step_in_backward()
    for net, opt in sides:
        train(net, opt, range(2))
        net.frozen.requires_grad_(True)
        net.add_module("more", nn.Linear(2, 2))
        with torch.no_grad():
            for p in net.more.parameters():
                p.fill_(0.5)
        opt.add_param_group({"params": list(net.more.named_parameters()), "lr": 0.1})
        net.last = nn.Sequential(net.last, net.more)
        train(net, opt, range(2, 6))
    assert_same(sides)
    net, opt = sides[1]
    kept = opt.param_groups[0]["params"].pop()
    opt.param_groups[0]["param_names"].pop()
    train(net, opt, [6])
    before = kept.detach().clone()
    train(net, opt, [7])
    assert torch.equal(kept, before)


@pytest.mark.parametrize("per_group", [False, True])
def test_clipping_goes_by_the_norm_of_the_step_before(per_group):
    net, opt = pair("SGD", clip_norm=sf.optim.Clip(0.01, per_group=per_group))[0]
    twin, usual = pair("SGD")[1]
    opt.step_in_backward()
    factors = [1.0, 1.0]
    for seed in range(4):
        usual.zero_grad()
        loss(twin, seed).backward()
        groups = [[p.grad for p in group["params"] if p.grad is not None] for group in usual.param_groups]
        raw = [g.clone() for grads in groups for g in grads]
        norms = [float(nn.utils.get_total_norm(grads)) for grads in (groups if per_group else [raw, raw])]
        for grads, factor in zip(groups, factors, strict=True):
            torch._foreach_mul_(grads, factor)
        usual.step()
        train(net, opt, [seed])
        assert opt.last.clip_factors == pytest.approx(factors)
        assert opt.last.grad_norm == pytest.approx(float(nn.utils.get_total_norm(raw)))
        factors = [min(1, 0.01 / (norm + 1e-6)) for norm in norms]
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


REFUSED = [
    ({"skip_nonfinite": True}, "skip_nonfinite needs all gradients"),
    ({"clip_norm": lambda norms: 1.0}, "a clip_norm function needs all gradients"),
    ({"clip_norm": sf.optim.Clip(1.0, error_if_nonfinite=True)}, "error_if_nonfinite needs all gradients"),
    ({"clip_norm": sf.optim.Clip(1.0, norm_type=float("inf"))}, "another norm than 2 needs all gradients"),
    ({"differentiable": True}, "differentiable needs all gradients"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[words.split(" needs")[0] for _, words in REFUSED])
def test_what_needs_the_whole_gradient_first_is_refused(options, words):
    opt = sf.optim.AdamW([nn.Parameter(torch.ones(1))], **options)
    with pytest.raises(sf.UserError, match=words):
        opt.step_in_backward()


def test_mistakes_are_named():
    w = nn.Parameter(torch.ones(1))
    opt = sf.optim.AdamW([w], ema=0.9)
    for every in (0, 1.5, True):
        with pytest.raises(sf.UserError, match="it must be a whole number, 1 or more"):
            opt.step_in_backward(every=every)
    opt.step_in_backward()
    with pytest.raises(sf.UserError, match=r"call remove\(\) of its handle first"):
        opt.step_in_backward()
    w.sum().backward()
    opt.step()
    with opt.averaged(), pytest.raises(sf.UserError, match="the parameters hold their averages"):
        w.sum().backward()
    w.grad = None
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(w.sum()).backward()
    with pytest.raises(sf.UserError, match="as GradScaler had scaled them"):
        scaler.step(opt)


def several(rank: int, world: int, folder: str) -> None:
    """Sharded parameters go the usual way; what DistributedDataParallel averages is refused."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    sides = []
    for _ in range(2):
        net = fully_shard(Net(), mesh=mesh)
        sides.append((net, sf.optim.AdamW((p for p in net.parameters() if p.requires_grad), clip_value=1e-3)))
    sides[1][1].step_in_backward()
    for side in sides:
        train(*side, range(12 * rank, 12 * rank + 6))
    for p, q in zip(*(net.parameters() for net, _ in sides), strict=True):
        assert torch.equal(p.full_tensor(), q.full_tensor())
    assert sides[0][1].last.grad_norm == pytest.approx(sides[1][1].last.grad_norm)
    with pytest.raises(sf.UserError, match="before DistributedDataParallel has averaged it"):
        sf.optim.AdamW(Net().parameters()).step_in_backward()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes(tmp_path):
    processes.run(several, tmp_path)
