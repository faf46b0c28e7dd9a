from __future__ import annotations

import pytest
import torch
from torch import nn

import surefoot as sf

SHAPES = [(30, 20), (7,), (), (4, 3, 5, 5)]
OPTIONS = [{}, {"weight_decay": 0.1, "lr": 0.05}, {"eps": (1e-6, 1e-2), "d": 2.0, "maximize": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-13), (torch.bfloat16, 0.1)])
def test_it_is_torchs_and_checkpoints_go_both_ways(options, dtype, near):
    """In half precision torch rounds its states as well, and goes its own way."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    opt, reference = sf.optim.Adafactor(ours, **options), torch.optim.Adafactor(theirs, **options)
    for t in range(50):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) * (1 + t % 3)
            q.grad = p.grad.clone()
        opt.step()
        reference.step()
        if t == 25 and dtype != torch.bfloat16:
            first, second = opt.state_dict(format="torch"), reference.state_dict()
            assert {i: kept.keys() for i, kept in first["state"].items()} == {
                i: {k for k, v in kept.items() if v is not None} for i, kept in second["state"].items()
            }
            opt.load_state_dict(second)
            reference.load_state_dict(first)
    assert not opt._engine._plan.items
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=near, atol=near)


def test_its_states_take_next_to_no_memory():
    p = nn.Parameter(torch.randn(256, 128))
    p.grad = torch.randn_like(p)
    opt = sf.optim.Adafactor([p])
    opt.step()
    assert sum(t.numel() for t in opt.state[p].values()) == 256 + 128 + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": (1e-3, None)}, "eps="),
        ({"eps": 1.0}, "eps="),
        ({"beta2_decay": 1}, "beta2_decay=1"),
        ({"d": 0.5}, "d=0.5"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(sf.UserError, match=words):
        sf.optim.Adafactor([nn.Parameter(torch.ones(2, 2))], **options)
