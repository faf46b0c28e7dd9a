"""What the reference backend promises beyond agreeing with torch (tests/optim)."""

from __future__ import annotations

import pytest
import torch

import surefoot as sf


def with_gradient(value: torch.Tensor, grad: torch.Tensor) -> torch.nn.Parameter:
    p = torch.nn.Parameter(value.clone())
    p.grad = grad.clone()
    return p


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    value, grad = torch.randn(1000).to(dtype), torch.randn(1000).to(dtype)
    half = with_gradient(value, grad)
    single = with_gradient(value.float(), grad.float())
    for p in (half, single):
        sf.optim.AdamW([p], lr=1e-2).step()
    assert torch.equal(half.data, single.data.to(dtype))


def test_states_take_the_parameters_memory_format():
    p = with_gradient(torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.randn(2, 3, 4, 5))
    opt = sf.optim.Adam([p])
    opt.step()
    assert opt.state[p]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


def test_no_decay_leaves_an_overflowed_parameter_infinite():
    p = with_gradient(torch.tensor([torch.inf, 1.0]), torch.zeros(2))
    sf.optim.SGD([p], lr=0.1, weight_decay=0).step()
    assert p.data.tolist() == [torch.inf, 1.0]


def test_centred_rmsprop_survives_a_constant_gradient():
    """The variance is then nothing but rounding error, of either sign; torch takes its root and gets NaN."""
    grads = torch.rand(200, generator=torch.Generator().manual_seed(1)) * 10
    ours, theirs = (torch.nn.Parameter(torch.zeros(200)) for _ in range(2))
    opts = (sf.optim.RMSprop([ours], alpha=0.9, centered=True), torch.optim.RMSprop([theirs], alpha=0.9, centered=True))
    for _ in range(500):
        ours.grad, theirs.grad = grads.clone(), grads.clone()
        for opt in opts:
            opt.step()
    assert ours.isfinite().all()
    assert not theirs.isfinite().all()  # or else this test shows nothing


def test_the_gradient_is_never_changed():
    p = with_gradient(torch.randn(5), torch.randn(5))
    before = p.grad.clone()
    sf.optim.SGD([p], lr=0.1, weight_decay=0.1, momentum=0.9, nesterov=True, maximize=True).step()
    assert torch.equal(p.grad, before)


def test_parameters_count_their_own_steps():
    a, b = with_gradient(torch.ones(2), torch.ones(2)), with_gradient(torch.ones(2), torch.ones(2))
    opt = sf.optim.Adam([a, b])
    opt.step()
    b.grad = None
    opt.step()
    assert (opt.state[a]["step"].item(), opt.state[b]["step"].item()) == (2, 1)
