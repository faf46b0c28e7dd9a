"""SAM and ASAM against their papers written out in numpy, around optimizers of surefoot and of torch."""

from __future__ import annotations

import math

import numpy as np
import processes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_options import same
from torch import Tensor, nn

import surefoot as sf
from surefoot.optim import SAM

BOTH = pytest.mark.parametrize("module", [sf, torch], ids=["ours", "torchs"])
SHAPES = [(4, 3), (5,), (2, 2)]
SCALES = [3.0, 0.5, 1.0]  # of the curvature, so that gradients do not point to the minimum


def parameters(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in SHAPES)
    return [nn.Parameter(p.to(dtype)) for p in made]


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def loss_of(params: list[nn.Parameter]) -> Tensor:
    return sum(
        (p.abs().double().pow(4).sum() * scale for p, scale in zip(params, SCALES, strict=True)), torch.zeros(())
    )


def gradient(p: np.ndarray, scale: float) -> np.ndarray:
    return 4 * scale * p**3


class Closure:
    """Clears, goes forward and backward; remembers where it was called, and may raise."""

    def __init__(self, params: list[nn.Parameter], optimizer: torch.optim.Optimizer, fails: int = 0) -> None:
        self.params, self.optimizer, self.fails = params, optimizer, fails
        self.seen: list[list[Tensor]] = []

    def __call__(self) -> Tensor:
        self.seen.append(values(self.params))
        if len(self.seen) == self.fails:
            raise ZeroDivisionError
        self.optimizer.zero_grad()
        loss = loss_of(self.params)
        loss.backward()
        return loss


def by_hand(params: list[np.ndarray], rho: float, adaptive: bool, eta: float) -> list[np.ndarray]:
    """The gradients at the worst point: SAM's eq. 2 with p = 2, and ASAM's eq. 9."""
    grads = [gradient(p, scale) for p, scale in zip(params, SCALES, strict=True)]
    sizes = [np.abs(p) + eta if adaptive else np.ones_like(p) for p in params]
    flat = np.concatenate([(t * g).ravel() for t, g in zip(sizes, grads, strict=True)])
    norm = np.sqrt(np.dot(flat, flat))
    moved = [p + rho * t * t * g / norm for p, t, g in zip(params, sizes, grads, strict=True)]
    return [gradient(p, scale) for p, scale in zip(moved, SCALES, strict=True)]


# --- what it does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("adaptive", "rho", "eta"), [(False, 0.05, 0.01), (True, 0.5, 0.01), (True, 2.0, 0.3)])
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"lr": 1e-3}), ("AdamW", {"lr": 0.1}), ("RMSprop", {"lr": 0.01})]
)
@BOTH
def test_it_is_what_the_papers_say(module, name, options, adaptive, rho, eta):
    params, twins = parameters(), parameters()
    optimizer, reference = getattr(module.optim, name)(params, **options), getattr(torch.optim, name)(twins, **options)
    sam = SAM(optimizer, rho=rho, adaptive=adaptive, eta=eta)
    for _ in range(6):
        before = loss_of(params).item()
        assert sam.step(Closure(params, optimizer)).item() == before
        for q, g in zip(twins, by_hand([q.detach().numpy() for q in twins], rho, adaptive, eta), strict=True):
            q.grad = torch.from_numpy(g)
        reference.step()
        torch.testing.assert_close(values(params), values(twins), rtol=1e-9, atol=1e-12)


def test_groups_share_one_norm():
    sides = []
    for split in (False, True):
        params = parameters()
        groups = [{"params": params[:1]}, {"params": params[1:]}] if split else params
        optimizer = sf.optim.SGD(groups, lr=0.01)
        SAM(optimizer).step(Closure(params, optimizer))
        sides.append(values(params))
    assert same(*sides)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("adaptive", [False, True])
def test_it_goes_so_far_and_comes_back_bit_for_bit(adaptive, dtype):
    params = parameters(dtype)
    optimizer = sf.optim.SGD(params, lr=0.0)
    closure = Closure(params, optimizer)
    SAM(optimizer, rho=0.5, adaptive=adaptive).step(closure)
    here, there = closure.seen
    assert same(values(params), here)
    moves = [(b - a) / (a.abs() + 0.01 if adaptive else 1) for a, b in zip(here, there, strict=True)]
    length = torch.cat([move.flatten() for move in moves]).to(torch.complex128).norm().item()
    assert length == pytest.approx(0.5, rel=2e-2 if dtype.itemsize == 2 else 1e-5)


@settings(deadline=None, max_examples=25)
@given(rho=st.floats(1e-3, 10), adaptive=st.booleans(), power=st.integers(-20, 20))
def test_scaling_the_loss_changes_no_perturbation(rho, adaptive, power):
    """As a loss scaler does."""
    seen = []
    for factor in (1.0, 2.0**power):
        params = parameters()
        optimizer = torch.optim.SGD(params, lr=0.0)
        (loss_of(params) * factor).backward()
        with SAM(optimizer, rho=rho, adaptive=adaptive).perturbed():
            seen.append(values(params))
    torch.testing.assert_close(*seen, rtol=1e-12, atol=0)


def test_asam_does_not_depend_on_the_scale_of_weights():
    """Eq. 8 of its paper: two networks that compute the same from weights of other sizes are perturbed alike."""
    found = []
    for scale in (1.0, 8.0):
        a, b = nn.Parameter(torch.tensor([[2.0, -1.0]]) * scale), nn.Parameter(torch.tensor([[0.5], [3.0]]) / scale)
        optimizer = torch.optim.SGD([a, b], lr=0.0)
        (a @ b).pow(2).sum().backward()
        with SAM(optimizer, rho=0.3, adaptive=True, eta=0.0).perturbed():
            found.append((a @ b).item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_rho_of_zero_is_the_optimizer_alone():
    params, plain = parameters(), parameters()
    optimizer, reference = sf.optim.AdamW(params, lr=0.1), sf.optim.AdamW(plain, lr=0.1)
    for _ in range(3):
        SAM(optimizer, rho=0).step(Closure(params, optimizer))
        Closure(plain, reference)()
        reference.step()
    assert same(values(params), values(plain))


def test_the_passes_may_be_written_out():
    """As GradScaler needs it: an overflow in either pass skips the step, and nothing else happens."""
    params, twins = parameters(torch.float32), parameters(torch.float32)
    optimizer, reference = sf.optim.SGD(params, lr=0.01), sf.optim.SGD(twins, lr=0.01)
    sam, other = SAM(optimizer), SAM(reference)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for bad in (None, 0, None, 1, None):
        before = values(params)
        for i in range(2):
            factor = math.inf if i == bad else 1.0
            if i == 0:
                optimizer.zero_grad()
                scaler.scale(loss_of(params) * factor).backward()
            else:
                with sam.perturbed():
                    scaler.scale(loss_of(params) * (math.inf if bad is not None else factor)).backward()
        assert same(values(params), before)
        scaler.step(optimizer)
        scaler.update()
        if bad is None:
            other.step(Closure(twins, reference))
        else:
            assert same(values(params), before)
    torch.testing.assert_close(values(params), values(twins))


def test_sparse_gradients_count_as_the_dense_ones_they_stand_for():
    sides = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(6, 3, sparse=sparse)
        optimizer = sf.optim.SGD(table.parameters(), lr=0.1)

        def closure(table=table, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = table(torch.tensor([1, 4, 1])).pow(4).sum()
            loss.backward()
            return loss

        SAM(optimizer, rho=0.3, adaptive=True).step(closure)
        sides.append(table.weight.detach().clone())
    torch.testing.assert_close(*sides)


def test_parameters_without_a_gradient_stay_where_they_are():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = sf.optim.SGD([used, unused], lr=0.1)
    sam = SAM(optimizer)
    with sam.perturbed():  # before any backward pass
        assert used.tolist() == [1, 1]
    used.sum().backward()
    with sam.perturbed():
        assert used.grad is None
        assert used.tolist() != [1, 1]
        assert unused.tolist() == [1, 1]


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [1, 2])
@BOTH
def test_whatever_a_closure_raises_the_parameters_are_where_they_were(module, fails):
    params = parameters(torch.float32)
    before = values(params)
    optimizer = module.optim.AdamW(params)
    with pytest.raises(ZeroDivisionError):
        SAM(optimizer).step(Closure(params, optimizer, fails))
    assert same(values(params), before)
    assert not optimizer.state


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", ["zero", "nan", "inf", "huge"])
def test_a_gradient_that_gives_no_direction_moves_nothing_between_the_passes(kind, adaptive):
    params = parameters(torch.float64 if kind == "huge" else torch.float32)
    optimizer = sf.optim.SGD(params, lr=1.0, skip_nonfinite=True)
    seen = []

    def closure() -> Tensor:
        seen.append(values(params))
        value = {"zero": 0.0, "nan": math.nan, "inf": math.inf, "huge": 1e300}[kind]
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, value if i == 1 or kind == "zero" else 0.5)
        return torch.zeros(())

    SAM(optimizer, adaptive=adaptive).step(closure)
    assert same(*seen)
    if kind != "huge":
        assert same(values(params), seen[0])
        assert optimizer.last.skipped == (kind != "zero")


@pytest.mark.parametrize("adaptive", [False, True])
def test_norms_and_shares_beyond_half_precision_are_neither_infinity_nor_zero(adaptive):
    """Scaled gradients in float16 are large: here the norm is beyond 65504, and rho / norm below 6e-8."""
    p = nn.Parameter(torch.zeros(4096, dtype=torch.float16))
    p.grad = torch.full_like(p, 30000.0)
    with SAM(torch.optim.SGD([p], lr=0.0), rho=0.05, adaptive=adaptive, eta=1.0).perturbed():
        assert p.tolist() == pytest.approx([0.05 / 64] * 4096, rel=1e-3)


@pytest.mark.parametrize("options", [{"rho": -1}, {"rho": math.nan}, {"rho": "x"}, {"eta": -0.1}, {"eta": math.inf}])
def test_settings_out_of_range_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(sf.UserError, match=f"SAM: {name}={value!r}: it must be a number, 0 or more"):
        SAM(sf.optim.SGD(parameters()), **options)


def test_what_it_cannot_work_with_is_refused():
    with pytest.raises(sf.UserError, match="not SGD"):
        SAM(torch.optim.SGD)  # as other libraries want it
    with pytest.raises(sf.UserError, match=r"adaptive=0\.5: it must be True or False"):
        SAM(sf.optim.SGD(parameters()), adaptive=0.5)
    with pytest.raises(sf.UserError, match="needs a closure"):
        SAM(sf.optim.SGD(parameters())).step(None)


def test_steps_in_the_backward_pass_are_refused_before_anything_moves():
    params = parameters()
    before = values(params)
    optimizer = sf.optim.SGD(params)
    handle = optimizer.step_in_backward()
    with pytest.raises(sf.UserError, match="SAM: with step_in_backward the parameters move too early"):
        SAM(optimizer).step(Closure(params, optimizer))
    assert same(values(params), before)
    handle.remove()
    SAM(optimizer).step(Closure(params, optimizer))


def test_with_a_lookahead_both_do_their_part():
    params, twins = parameters(), parameters()
    optimizer, reference = sf.optim.SGD(params, lr=0.01), sf.optim.SGD(twins, lr=0.01)
    sf.optim.Lookahead(optimizer, k=2)
    start = values(params)
    for _ in range(2):
        SAM(optimizer).step(Closure(params, optimizer))
        SAM(reference).step(Closure(twins, reference))
    torch.testing.assert_close(values(params), [a + 0.5 * (b - a) for a, b in zip(start, values(twins), strict=True)])


# --- several processes ---------------------------------------------------------------------------------------------


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))


def train(model: nn.Module, module, adaptive: bool, rank: int = 0, world: int = 1) -> None:
    optimizer = module.optim.AdamW(model.parameters(), lr=0.05)
    sam = SAM(optimizer, rho=0.5, adaptive=adaptive)
    for seed in range(4):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).chunk(world)[rank]

        def closure(x=x) -> Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        sam.step(closure)


def sharded(rank: int, world: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    for name, module in (("ours", sf), ("torchs", torch)):
        for adaptive in (False, True):
            model = fully_shard(net(), mesh=mesh)
            train(model, module, adaptive, rank, world)
            found = [p.full_tensor().detach() for p in model.parameters()]
            if rank == 0:
                torch.save(found, f"{folder}/{name}-{adaptive}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_sharded_parameters_go_the_way_of_one_process(tmp_path):
    processes.run(sharded, tmp_path)
    for adaptive in (False, True):
        model = net()
        train(model, torch, adaptive)
        for name in ("ours", "torchs"):
            found = torch.load(tmp_path / f"{name}-{adaptive}.pt")
            torch.testing.assert_close(found, values(model.parameters()), rtol=1e-4, atol=1e-5)
