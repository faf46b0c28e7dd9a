from __future__ import annotations

import pytest
import torch
from torch import nn

import surefoot as sf


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(16, 4), torch.randn(16, 1)


def closure_of(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("module", [sf.optim, torch.optim], ids=["ours", "torch's"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_gradient_is_that_at_the_worst_point_nearby(module, adaptive):
    model, x, y = problem()
    params = list(model.parameters())
    opt = module.SGD(params, lr=0.1)
    closure = closure_of(model, opt, x, y)
    closure()
    grads, start = [p.grad.clone() for p in params], [p.detach().clone() for p in params]
    sizes = [p.abs() + 0.01 if adaptive else torch.ones_like(p) for p in start]
    norm = torch.cat([(s * g).flatten() for s, g in zip(sizes, grads, strict=True)]).norm()
    for p, s, g in zip(params, sizes, grads, strict=True):
        p.data.add_(0.5 * s * s * g / norm)
    closure()
    right = [p - 0.1 * q.grad for p, q in zip(start, params, strict=True)]
    for p, value in zip(params, start, strict=True):
        p.data.copy_(value)
    loss = sf.optim.SAM(opt, rho=0.5, adaptive=adaptive).step(closure)
    for p, value in zip(params, right, strict=True):
        torch.testing.assert_close(p.detach(), value)
    assert loss.item() == pytest.approx(nn.functional.mse_loss(problem()[0](x), y).item())


def test_it_trains():
    model, x, y = problem()
    opt = sf.optim.AdamW(model.parameters(), lr=0.02)
    sam, closure = sf.optim.SAM(opt, rho=0.05), closure_of(model, opt, x, y)
    losses = [sam.step(closure).item() for _ in range(100)]
    assert losses[-1] < 0.2 * losses[0]


def test_parameters_come_back_bit_for_bit_from_a_closure_that_fails():
    model, x, y = problem()
    opt = sf.optim.SGD(model.parameters(), lr=0.1)
    plain, calls = closure_of(model, opt, x, y), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return plain()

    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="out of memory"):
        sf.optim.SAM(opt).step(closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_gradient_of_zero_and_parameters_without_one():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = sf.optim.SGD([p, q], lr=0.1)

    def closure():
        opt.zero_grad()
        loss = (0 * p).sum()
        loss.backward()
        return loss

    sf.optim.SAM(opt).step(closure)
    assert torch.equal(p, torch.ones(2))
    assert torch.equal(q, torch.ones(2))


@pytest.mark.parametrize(("arguments", "words"), [({"rho": -1}, "rho=-1"), ({"eta": "a"}, "eta='a'")])
def test_bad_input(arguments, words):
    with pytest.raises(sf.UserError, match=words):
        sf.optim.SAM(sf.optim.SGD([nn.Parameter(torch.ones(1))]), **arguments)
    with pytest.raises(sf.UserError, match="needs a closure"):
        sf.optim.SAM(sf.optim.SGD([nn.Parameter(torch.ones(1))])).step(None)
