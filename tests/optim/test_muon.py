"""Muon beside torch's, and what torch's does not have: AdamW in the same optimizer, fused matrices, convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from backends import on_gpu, reference_only
from torch import nn

import surefoot as sf

SHAPES = [(30, 20), (20, 30), (16, 16), (16, 16)]
OPTIONS = [
    {},
    {"nesterov": False, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"},
    {"momentum": 0.8, "ns_steps": 3},
]


def matrices(dtype=torch.float32, shapes=SHAPES) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]


def step(params, opt, seed: int) -> None:
    torch.manual_seed(seed)
    for p in params:
        p.grad = torch.randn_like(p)
    opt.step()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchs_but_for_its_rounding_to_bfloat16(options, dtype):
    """The iteration in double precision is tested by the equation; torch rounds its own to 8 bits."""
    ours, theirs = matrices(dtype), matrices(dtype)
    opt, reference = sf.optim.Muon(ours, lr=0.02, **options), torch.optim.Muon(theirs, lr=0.02, **options)
    start = [p.detach().clone() for p in ours]
    for seed in range(30):
        step(ours, opt, seed)
        step(theirs, reference, seed)
    assert not opt._engine._plan.items
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.02 * (q - s).norm()
    reference.load_state_dict(opt.state_dict(format="torch"))
    opt.load_state_dict(reference.state_dict())
    step(ours, opt, 30)


def test_what_is_fused_is_taken_apart():
    whole = matrices(shapes=[(12, 5)])
    split = [nn.Parameter(part.clone()) for part in whole[0].detach().chunk(3)]
    one = sf.optim.Muon(whole, lr=0.1, parts=[3])
    other = sf.optim.Muon(split, lr=0.1)
    for seed in range(5):
        step(whole, one, seed)
        for p, g in zip(split, whole[0].grad.chunk(3), strict=True):
            p.grad = g.clone()
        other.step()
    torch.testing.assert_close(whole[0], torch.cat(split), rtol=1e-4, atol=1e-5)


def test_a_convolution_is_one_matrix():
    kernels, flat = matrices(shapes=[(8, 3, 2, 2)]), matrices(shapes=[(8, 12)])
    flat[0].data.copy_(kernels[0].data.view(8, 12))
    kernels.append(nn.Parameter(kernels[0].detach().contiguous(memory_format=torch.channels_last)))
    one, other = sf.optim.Muon(kernels, lr=0.1), sf.optim.Muon(flat, lr=0.1)
    for seed in range(5):
        torch.manual_seed(seed)
        flat[0].grad = torch.randn(8, 12)
        for p in kernels:
            p.grad = flat[0].grad.view(8, 3, 2, 2).clone(memory_format=torch.preserve_format)
        kernels[1].grad = kernels[1].grad.contiguous(memory_format=torch.channels_last)
        one.step()
        other.step()
    for p in kernels:
        torch.testing.assert_close(p.reshape(8, 12), flat[0], rtol=1e-4, atol=1e-5)


def test_groups_for_adamw_take_adamws_step():
    ours, theirs = matrices(shapes=[(4, 3), (5,)]), matrices(shapes=[(4, 3), (5,)])
    hidden = matrices(shapes=[(6, 6)])
    group = {"params": ours, "algorithm": "adamw", "lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-6}
    opt = sf.optim.Muon([{"params": hidden}, group], lr=0.1, weight_decay=0.05)
    reference = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.05)
    for seed in range(10):
        step([*ours, *hidden], opt, seed)
        step(theirs, reference, seed)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)
    saved = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(saved)
    assert opt.state[ours[0]].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert opt.state[hidden[0]].keys() == {"momentum_buffer"}


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 1.0},
        {"clip_value": 0.5},
        {"skip_nonfinite": True},
        {"cautious": True},
        {"centralize": True},
        {"ema": 0.9},
        {"zero_grad_in_step": True},
        {"state_dtype": "bf16"},
    ],
    ids=str,
)
def test_backends_agree_with_every_option(options):
    found = []
    for backend in ("compiled", "torch", "gpu"):
        params = matrices(shapes=[(8, 6), (6, 6), (5,)])
        opt = sf.optim.Muon([{"params": params[:2]}, {"params": params[2:], "algorithm": "adamw"}], lr=0.02, **options)
        for seed in range(3):
            if backend == "torch":
                with reference_only():
                    step(params, opt, seed)
            elif backend == "gpu":
                with on_gpu() as device:
                    if device.type == "cuda":
                        pytest.skip("the parameters lie on the CPU")
                    step(params, opt, seed)
            else:
                step(params, opt, seed)
        found.append(params)
    near = 1e-2 if "state_dtype" in options else 1e-5
    for p, q, r in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=near, atol=near)
        torch.testing.assert_close(p, r, rtol=near, atol=near)


def test_half_precision():
    params = matrices(torch.bfloat16)
    before = [p.detach().clone() for p in params]
    opt = sf.optim.Muon(params, lr=0.02, state_dtype="fp32", rounding="stochastic")
    step(params, opt, 0)
    assert all(not torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert opt.state[params[0]]["momentum_buffer"].dtype == torch.float32


def test_a_skipped_step_leaves_everything():
    params = matrices()
    opt = sf.optim.Muon(params, lr=0.1, skip_nonfinite=True)
    step(params, opt, 0)
    before, kept = [p.detach().clone() for p in params], copy.deepcopy(opt.state_dict())
    params[0].grad[0, 0] = float("nan")
    opt.step()
    assert opt.last.skipped
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    after = opt.state_dict()
    assert all(torch.equal(after["state"][i]["momentum_buffer"], kept["state"][i]["momentum_buffer"]) for i in range(4))


@pytest.mark.parametrize(
    ("params", "options", "words"),
    [
        ([(5,)], {}, "Muon is for matrices, and parameter 0 has shape (5,)"),
        ([(5, 2)], {"parts": [3]}, "5 rows, which are not 3 matrices"),
        ([(5, 2)], {"parts": [1, 1]}, "parts must have a number for each of the group's 1 parameters"),
        ([(5, 2)], {"algorithm": "adam"}, "unknown algorithm of Muon adam: did you mean adamw?"),
        ([(5, 2)], {"adjust_lr_fn": "orignal"}, "did you mean original?"),
        ([(5, 2)], {"ns_steps": 100}, "ns_steps=100"),
        ([(5, 2)], {"ns_coefficients": (1, 2)}, "ns_coefficients=(1, 2)"),
        ([(5, 2)], {"momentum": -1}, "momentum=-1"),
    ],
)
def test_bad_input(params, options, words):
    with pytest.raises(sf.UserError) as error:
        sf.optim.Muon(matrices(shapes=params), **options)
    assert words in str(error.value)


def test_a_refused_group_is_not_added():
    opt = sf.optim.Muon(matrices())
    with pytest.raises(sf.UserError, match="Muon is for matrices"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": [nn.Parameter(torch.ones(3))], "algorithm": "adamw"})
