"""States in 8 bits: their codes, and optimizers that keep them."""

from __future__ import annotations

import copy

import pytest
import torch
from backends import reference_only
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surefoot as sf
from surefoot.engine import eight_bit
from surefoot.engine.eight_bit import BLOCK, LEAST


def coded(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """What is left of numbers in 8 bits."""
    codes, scale = torch.empty_like(x, dtype=torch.int8), torch.empty(-(-x.numel() // BLOCK))
    bits = torch.randint(2**32, x.shape, generator=torch.Generator().manual_seed(seed))
    eight_bit.encode(x, bits, codes, scale)
    return eight_bit.decode(codes, scale)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=600))
def test_numbers_are_off_by_less_than_one_code(numbers):
    x = torch.tensor(numbers)
    y = coded(x)
    blocks = torch.nn.functional.pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)
    top = blocks.abs().amax(1).repeat_interleave(BLOCK)[: len(x)]
    levels = torch.where(blocks.signbit().any(1), 127.0, 255.0).repeat_interleave(BLOCK)[: len(x)]
    level = ((x.abs() / top).nan_to_num(0) ** 0.25 * levels).floor()
    step = (((level + 1) / levels) ** 4 - (level / levels) ** 4) * top
    assert ((x - y).abs() <= 1.0001 * step + 1e-44).all()
    assert (y[x == 0] == 0).all()
    assert (y != 0)[(x != 0) & (top * (1 / levels) ** 4 > 0)].all()  # zero only where the smallest code is too small
    assert (x * y >= 0).all()


def test_the_largest_of_a_block_is_kept():
    x = torch.randn(10 * BLOCK)
    y = coded(x)
    top = x.view(-1, BLOCK).abs().argmax(1)
    torch.testing.assert_close(y.view(-1, BLOCK).gather(1, top[:, None]), x.view(-1, BLOCK).gather(1, top[:, None]))


def test_rounding_is_right_on_the_average():
    torch.manual_seed(0)
    x = torch.randn(BLOCK)
    mean = torch.stack([coded(x, seed).double() for seed in range(4000)])
    error = (mean.mean(0) - x.double()).abs()
    spread = mean.std(0) / 4000**0.5
    assert (error <= 5 * spread + 1e-6).all()  # five standard errors, of 256 numbers


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop", "Adagrad", "Adafactor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_and_torch_operations_agree_bit_for_bit(name, dtype):
    options = {"SGD": {"momentum": 0.9, "lr": 0.1}}.get(name, {})
    torch.manual_seed(0)
    shapes = [(300, 33), (5,), (LEAST,), (70, 70)]
    start = [torch.randn(shape).to(dtype) for shape in shapes]
    found = []
    for slow in (False, True):
        params = [nn.Parameter(p.clone()) for p in start]
        opt = getattr(sf.optim, name)(params, state_dtype="8bit", **options)
        for seed in range(6):
            torch.manual_seed(seed)
            for p in params:
                p.grad = torch.randn_like(p)
            if slow:
                with reference_only():
                    opt.step()
            else:
                opt.step()
                assert not opt._engine._plan.items
        found.append([(p.detach(), opt.state[p]) for p in params])
    for (p, ours), (q, theirs) in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        eps = torch.finfo(dtype).eps
        assert ((p - q).abs() <= 4 * eps * q.abs() + 1e-6).float().mean() > 0.999  # a code may fall otherwise
        for key, state in ours.items():
            if state.dtype == torch.int8:
                assert ((state.int() - theirs[key].int()).abs() <= 1).all()
                assert (state != theirs[key]).float().mean() < 1e-3


def test_two_moments_take_2_03_bytes_a_parameter():
    params = [nn.Parameter(torch.randn(512, 512)), nn.Parameter(torch.randn(LEAST - 1))]
    opt = sf.optim.AdamW(params, state_dtype="8bit")
    for p in params:
        p.grad = torch.randn_like(p)
    opt.step()
    large, small = (opt.state[p] for p in params)
    size = sum(t.numel() * t.element_size() for key, t in large.items() if key != "step")
    assert size / params[0].numel() == pytest.approx(2 + 8 / BLOCK)
    assert all(t.dtype == torch.float32 for t in small.values())


def test_an_average_moves_by_a_thousandth_a_step():
    """Rounded to the nearest code, the second moment would stand still."""
    p = nn.Parameter(torch.zeros(LEAST))
    opt = sf.optim.AdamW([p], state_dtype="8bit", lr=0.0)
    p.grad = torch.ones(LEAST)
    opt.step()
    p.grad = torch.linspace(0.1, 1, LEAST)
    for _ in range(1000):
        opt.step()
    kept = opt.state[p]
    v = eight_bit.decode(kept["exp_avg_sq"], kept["exp_avg_sq_scale"])
    beta = 0.999
    true = 0.001 * beta**1000 + (1 - beta**1000) * p.grad**2
    assert ((v / true).view(-1, BLOCK).mean(1) - 1).abs().max() < 0.1


def test_a_checkpoint_resumes_bit_for_bit_and_torchs_format_holds_numbers():
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(80, 80)), nn.Parameter(torch.randn(7))]
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    opt, other = (sf.optim.AdamW(each, state_dtype="8bit", lr=0.1) for each in (params, copies))

    def step(optimizer, each, seed):
        torch.manual_seed(seed)
        for p in each:
            p.grad = torch.randn_like(p)
        optimizer.step()

    step(opt, params, 0)
    for p, q in zip(params, copies, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for seed in (1, 2):
        step(opt, params, seed)
        step(other, copies, seed)
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))

    plain = opt.state_dict(format="torch")
    theirs = torch.optim.AdamW(params)
    theirs.load_state_dict(plain)
    assert plain["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert plain["state"][0]["exp_avg"].dtype == torch.float32
    fresh = sf.optim.AdamW(params)
    fresh.load_state_dict(plain)
    step(fresh, params, 3)


def test_what_is_not_finite_stays_so():
    p = nn.Parameter(torch.zeros(LEAST))
    opt = sf.optim.AdamW([p], state_dtype="8bit")
    p.grad = torch.ones(LEAST)
    p.grad[300] = float("nan")
    opt.step()
    assert p[300].isnan()
    assert p[:BLOCK].isfinite().all()  # another block


def test_parameters_in_double_precision_keep_double_states():
    p = nn.Parameter(torch.zeros(LEAST, dtype=torch.float64))
    opt = sf.optim.AdamW([p], state_dtype="8bit")
    p.grad = torch.ones_like(p)
    opt.step()
    assert opt.state[p]["exp_avg"].dtype == torch.float64
