"""Sparse gradients: rows that are not looked up stay as they are, the others move as a dense gradient moves them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surefoot as sf

MAKERS = {
    "SGD": lambda params: sf.optim.SGD(params, lr=0.1),
    "Adagrad": lambda params: sf.optim.Adagrad(params, lr=0.1),
    "SparseAdam": lambda params: sf.optim.SparseAdam(params, lr=0.1),
}
ROWS = 12


def table(dtype=torch.float32) -> nn.Parameter:
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(ROWS, 3).to(dtype))


def coo(rows: list[int], width: int = 3, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """A gradient of these rows, of which some may come twice."""
    torch.manual_seed(seed)
    index = torch.tensor([rows], dtype=torch.int64).view(1, len(rows))
    return torch.sparse_coo_tensor(index, torch.randn(len(rows), width).to(dtype), (ROWS, width), check_invariants=True)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, ROWS - 1), max_size=8), min_size=1, max_size=4), st.sampled_from(list(MAKERS)))
def test_rows_that_are_held_move_and_no_others(steps, name):
    p = table()
    opt = MAKERS[name]([p])
    for seed, rows in enumerate(steps):
        before, kept = p.detach().clone(), copy.deepcopy(opt.state.get(p, {}))
        p.grad = coo(rows, seed=seed)
        opt.step()
        others = [row for row in range(ROWS) if row not in rows]
        assert torch.equal(p[others], before[others])
        for key, state in opt.state.get(p, {}).items():
            if key in kept and state.ndim:
                assert torch.equal(state[others], kept[key][others])
        if rows:
            assert not torch.equal(p, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_what_zero_does_not_move_is_as_a_dense_gradient_has_it(name, dtype):
    p, q = table(dtype), table(dtype)
    one, two = MAKERS[name]([p]), MAKERS[name]([q])
    for seed, rows in enumerate(([1, 5], [5, 5, 2], [11])):
        p.grad = coo(rows, dtype=dtype, seed=seed)
        q.grad = p.grad.to_dense()
        one.step()
        two.step()
        assert torch.equal(p, q)
        assert one.last.grad_norm == pytest.approx(two.last.grad_norm)


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"betas": (0.5, 0.9), "eps": 1e-3}], ids=str)
def test_sparse_adam_is_torchs(options):
    """torch adds eps before the bias correction: to agree, ours is divided by the same."""
    p, q = table(torch.float64), table(torch.float64)
    theirs = torch.optim.SparseAdam([q], lr=0.01, **options)
    ours = sf.optim.SparseAdam([p], lr=0.01, **options)
    beta2, eps = options.get("betas", (0.9, 0.999))[1], options.get("eps", 1e-8)
    for t in range(1, 101):
        rows = torch.randint(ROWS, (4,), generator=torch.Generator().manual_seed(t)).tolist()
        p.grad, q.grad = (coo(rows, dtype=torch.float64, seed=t) for _ in range(2))
        ours.param_groups[0]["eps"] = eps / (1 - beta2**t) ** 0.5
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    theirs.load_state_dict(ours.state_dict(format="torch"))
    ours.load_state_dict(theirs.state_dict())


def test_a_model_with_an_embedding_trains_with_one_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Flatten(), nn.Linear(8, 1))
    opt = sf.optim.SparseAdam(model.parameters(), lr=0.05)
    x = torch.randint(50, (64, 2))
    y = (x.sum(1, keepdim=True) > 50).float()
    losses = []
    for _ in range(60):
        opt.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_gradients_sparse_in_every_dimension():
    p = nn.Parameter(torch.ones(3, 4))
    p.grad = torch.sparse_coo_tensor([[0, 2], [1, 3]], [2.0, -2.0], (3, 4), check_invariants=True)
    sf.optim.SparseAdam([p], lr=0.5).step()
    moved = torch.ones(3, 4)
    moved[0, 1], moved[2, 3] = 0.5, 1.5
    torch.testing.assert_close(p.detach(), moved)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.1},
        {"clip_value": 0.1},
        {"skip_nonfinite": True},
        {"cautious": True},
        {"rounding": "stochastic"},
        {"master_weights": True},
        {"state_dtype": "fp32"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_option(options, dtype):
    """On the rows alone as on all of them, where the gradient holds every row."""
    p, q = table(dtype), table(dtype)
    one, two = (sf.optim.SparseAdam([each], lr=0.1, **options) for each in (p, q))
    for seed in range(3):
        p.grad = coo(list(range(ROWS)), dtype=dtype, seed=seed)
        q.grad = p.grad.to_dense()
        one.step()
        two.step()
    torch.testing.assert_close(p, q, rtol=1e-5 if dtype == torch.float32 else 0, atol=0)


def test_an_average_is_kept_of_all_rows():
    p = table()
    first = p.detach().clone()
    opt = sf.optim.SparseAdam([p], lr=0.1, ema=0.5)
    p.grad = coo([3])
    opt.step()
    with opt.averaged():
        torch.testing.assert_close(p[3].detach(), 0.5 * (first[3] + opt.state[p]["ema"][3] * 2 - first[3]))
        assert torch.equal(p[:3], first[:3])


def test_with_decay_a_sparse_gradient_counts_as_the_dense_one():
    p, q = table(), table()
    one, two = (sf.optim.SGD([each], lr=0.1, weight_decay=0.1) for each in (p, q))
    p.grad = coo([3, 3, 4])
    q.grad = p.grad.to_dense()
    one.step()
    two.step()
    torch.testing.assert_close(p, q)
