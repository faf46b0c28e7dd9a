"""SOAP beside other people's, and what it and Shampoo share."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_optimizer.optimizer.soap import SOAP
from torch import nn

import surefoot as sf

SHAPES = [(8, 8), (5,), (8, 8), (3, 3)]


def params(shapes=SHAPES, dtype=torch.float64) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)) for shape in shapes]


def step(every, opt, seed: int) -> None:
    torch.manual_seed(seed)
    for p in every:
        p.grad = (torch.randn(p.shape, dtype=torch.float64) + 0.5 * p.detach()).to(p.dtype)
    opt.step()


@pytest.mark.parametrize("frequency", [1, 3, 10])
def test_it_goes_the_way_of_other_peoples(frequency):
    """Square matrices: of others the first gradient leaves eigenvectors open. Theirs decomposes in single precision."""
    ours, theirs = params(), params()
    start = [p.detach().clone() for p in ours]
    opt = sf.optim.SOAP(ours, lr=1e-2, weight_decay=0.0, precondition_frequency=frequency)
    reference = SOAP(theirs, lr=1e-2, weight_decay=0.0, precondition_frequency=frequency, shampoo_beta=0.95)
    for seed in range(100):
        step(ours, opt, seed)
        step(theirs, reference, seed)
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 1e-6 * (q - s).norm()


@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_a_checkpoint_resumes_bit_for_bit(name):
    shapes = [(6, 4), (5,), (4, 3, 2, 2)]
    ours, others = params(shapes), params(shapes)
    opt, again = (getattr(sf.optim, name)(each, precondition_frequency=3, max_precond_dim=8) for each in (ours, others))
    for seed in range(5):
        step(ours, opt, seed)
    for p, q in zip(ours, others, strict=True):
        q.data.copy_(p.data)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    for seed in range(5, 12):
        step(ours, opt, seed)
        step(others, again, seed)
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))
    assert "column_gram" not in opt.state[ours[2]]  # 12 columns, more than max_precond_dim
    with pytest.raises(sf.UserError, match="row_gram"):
        sf.optim.AdamW(params(shapes)).load_state_dict({**opt.state_dict()} | {"param_groups": again_groups(shapes)})


def again_groups(shapes) -> list:
    return sf.optim.AdamW(params(shapes)).state_dict()["param_groups"]


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0}, {"cautious": True}, {"ema": 0.9}, {"state_dtype": "bf16"}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_they_train_with_options_and_in_half_precision(name, dtype, options):
    torch.manual_seed(0)
    w, target = nn.Parameter(torch.zeros(6, 4, dtype=dtype)), torch.randn(6, 4)
    bias = nn.Parameter(torch.zeros(6, dtype=dtype))
    opt = getattr(sf.optim, name)([w, bias], lr=0.05, weight_decay=0.0, **options)
    losses = []
    for _ in range(60):
        opt.zero_grad()
        x = torch.randn(32, 4)
        loss = (x @ w.float().T + bias.float() - x @ target.T).square().mean()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.1 * sum(losses[:5])


@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_gradients_of_zero_and_huge_ones(name):
    for size in (0.0, 1e-20, 1e15):
        (p,) = params([(4, 4)], torch.float32)
        opt = getattr(sf.optim, name)([p], lr=0.1, precondition_frequency=2)
        for seed in range(5):
            torch.manual_seed(seed)
            p.grad = size * torch.randn(4, 4)
            opt.step()
        assert p.isfinite().all(), size


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SOAP", {"precondition_frequency": 0}, "precondition_frequency=0"),
        ("SOAP", {"max_precond_dim": 2.5}, "max_precond_dim=2.5"),
        ("Shampoo", {"matrix_eps": -1}, "matrix_eps=-1"),
        ("Shampoo", {"betas": (1, 1)}, "betas=(1, 1)"),
    ],
)
def test_bad_input(name, options, words):
    with pytest.raises(sf.UserError) as error:
        getattr(sf.optim, name)(params(), **options)
    assert words in str(error.value)
