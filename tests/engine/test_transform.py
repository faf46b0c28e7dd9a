"""Gradient centralisation and adaptive gradient clipping: what the rule is given, and that `.grad` stays as it is."""

from __future__ import annotations

import pytest
import torch
from backends import on_gpu, reference_only
from torch import nn

import surefoot as sf
from surefoot.optim import AGC

SHAPES = [(6, 4), (3, 2, 2, 2), (5,), ()]


def problem(dtype=torch.float32):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    for p in params:
        p.grad = torch.randn_like(p) * 3
    return params


def centred(g):
    return g - g.flatten(1).mean(1).view(-1, *[1] * (g.ndim - 1)) if g.ndim > 1 else g


def clipped(p, g, clipping, eps):
    """Row by row, as the paper says."""
    rows = [(p[i], g[i]) for i in range(len(p))] if p.ndim > 1 else [(p, g)]
    found = []
    for w, d in rows:
        most = clipping * max(w.norm().item(), eps)
        found.append(d * min(1.0, most / d.norm().item()))
    return torch.stack(found) if p.ndim > 1 else found[0]


@pytest.mark.parametrize("where", ["compiled", "torch", "gpu"])
@pytest.mark.parametrize("options", [{"centralize": True}, {"clip_norm": AGC(0.1)}], ids=str)
def test_the_rule_is_given_the_changed_gradient(options, where):
    params = problem()
    before = [(p.detach().clone(), p.grad.clone()) for p in params]
    opt = sf.optim.SGD(params, lr=1.0, **options)
    if where == "torch":
        with reference_only():
            opt.step()
    elif where == "gpu":
        with on_gpu() as device:
            if device.type == "cuda":
                pytest.skip("the parameters lie on the CPU")
            opt.step()
    else:
        opt.step()
        assert not opt._engine._plan.items
    for p, (old, grad) in zip(params, before, strict=True):
        assert torch.equal(p.grad, grad)
        changed = centred(grad) if "centralize" in options else clipped(old, grad, 0.1, 1e-3)
        torch.testing.assert_close(p.detach(), old - changed)
    norm = torch.cat([grad.flatten() for _, grad in before]).norm().item()
    assert opt.last.grad_norm == pytest.approx(norm)


@pytest.mark.parametrize("options", [{"centralize": True}, {"clip_norm": AGC(0.1)}], ids=str)
def test_with_other_options(options):
    """A loss scale comes off before rows are measured, gradients are cleared after, and half precision is no matter."""
    params, plain = problem(), problem()
    opt = sf.optim.AdamW(params, zero_grad_in_step=True, cautious=True, ema=0.9, **options)
    other = sf.optim.AdamW(plain, cautious=True, ema=0.9, **options)
    for p in params:
        p.grad.mul_(1024)
    opt.grad_scale = torch.tensor(1024.0)
    opt.step()
    other.step()
    assert all(not p.grad.any() for p in params)
    for p, q in zip(params, plain, strict=True):
        torch.testing.assert_close(p, q)
    half = problem(torch.bfloat16)
    sf.optim.AdamW(half, **options).step()


def test_both_at_once():
    params = problem()
    before = [(p.detach().clone(), p.grad.clone()) for p in params]
    sf.optim.SGD(params, lr=1.0, centralize=True, clip_norm=AGC(0.1)).step()
    for p, (old, grad) in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), old - clipped(old, centred(grad), 0.1, 1e-3))


@pytest.mark.parametrize("arguments", [{"clipping": 0}, {"clipping": "a"}, {"eps": -1}, {"eps": True}])
def test_bad_input(arguments):
    with pytest.raises(sf.UserError, match=f"AGC: {next(iter(arguments))}="):
        AGC(**arguments)


def test_not_in_a_backward_pass():
    opt = sf.optim.SGD(problem(), clip_norm=AGC())
    with pytest.raises(sf.UserError, match=r"step_in_backward: clip_norm=AGC"):
        opt.step_in_backward()
