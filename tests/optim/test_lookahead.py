from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surefoot as sf

MAKERS = {
    "ours": lambda params: sf.optim.AdamW(params, lr=0.1),
    "torch's": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
}


def params(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]


def run(opt: torch.optim.Optimizer, steps: range) -> None:
    for seed in steps:
        torch.manual_seed(seed)
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        opt.step()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_the_papers_algorithm(make):
    """Inner steps of the plain optimizer, and every k of them the slow weights."""
    ours, plain = params(), params()
    opt, inner = make(ours), make(plain)
    sf.optim.Lookahead(opt, k=3, alpha=0.4)
    slow = [p.detach().clone() for p in plain]
    for outer in range(4):
        run(opt, range(3 * outer, 3 * outer + 3))
        run(inner, range(3 * outer, 3 * outer + 3))
        for p, s in zip(plain, slow, strict=True):
            s.add_(p.detach() - s, alpha=0.4)
            p.data.copy_(s)
        for p, q in zip(ours, plain, strict=True):
            torch.testing.assert_close(p, q)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_checkpoint_resumes_bit_for_bit(make):
    ours, others = params(), params()
    opt = make(ours)
    sf.optim.Lookahead(opt, k=3)
    run(opt, range(4))
    for p, q in zip(ours, others, strict=True):
        q.data.copy_(p.data)
    again = make(others)
    sf.optim.Lookahead(again, k=3)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    run(opt, range(4, 9))
    run(again, range(4, 9))
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))


def test_skipped_steps_do_not_count():
    ours, plain = params(), params()
    opt, other = (sf.optim.SGD(each, lr=0.1, skip_nonfinite=True) for each in (ours, plain))
    for each in (opt, other):
        sf.optim.Lookahead(each, k=2)
    run(opt, range(1))
    ours[0].grad.fill_(float("nan"))
    opt.step()
    run(opt, range(1, 4))
    run(other, range(4))
    assert all(torch.equal(p, q) for p, q in zip(ours, plain, strict=True))


def test_slow_weights_can_be_evaluated_and_it_can_be_removed():
    ours = params()
    start = [p.detach().clone() for p in ours]
    opt = sf.optim.SGD(ours, lr=0.1)
    lookahead = sf.optim.Lookahead(opt, k=5)
    run(opt, range(2))
    fast = [p.detach().clone() for p in ours]
    with lookahead.slow():
        assert all(torch.equal(p, s) for p, s in zip(ours, start, strict=True))
    assert all(torch.equal(p, f) for p, f in zip(ours, fast, strict=True))
    lookahead.remove()
    run(opt, range(2, 9))
    assert opt.param_groups[0]["lookahead_step"] == 2


@pytest.mark.parametrize("arguments", [{"k": 0}, {"k": 2.5}, {"alpha": 1.5}, {"alpha": "a"}])
def test_bad_input(arguments):
    with pytest.raises(sf.UserError, match=f"Lookahead: {next(iter(arguments))}="):
        sf.optim.Lookahead(sf.optim.SGD(params()), **arguments)
