"""Kronecker factors: half of them kept, bases made orthonormal quickly or safely."""

from __future__ import annotations

import pytest
import torch

from surefoot.engine.matrix import factors

SIZES = [5, factors.LARGE + 30]  # kept whole, and by halves


def random(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(shape)


@pytest.mark.parametrize("size", SIZES)
def test_a_factor_is_the_average_of_products(size):
    kept, right = [torch.zeros(size, size) for _ in range(2)], torch.zeros(2, size, size)
    for _ in range(3):
        g = random(2, size, 7)
        factors.accumulate(kept, g, 0.9)
        right.lerp_(g @ g.mT, 1 - 0.9)
    torch.testing.assert_close(torch.stack(list(factors.whole(kept))), right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_eigenvectors_are_rows_and_their_values_fall(size):
    g = random(2, size, size + 10)
    product = g @ g.mT
    found = factors.eigenvectors(product)
    assert found is not None
    values, rows = found
    assert (values.diff(dim=-1) <= 0).all()
    rebuilt = rows.mT @ (rows * values[..., None])
    assert (rebuilt - product).norm() < 1e-5 * product.norm()


def test_what_has_no_eigenvectors_is_told(caplog):
    assert factors.eigenvectors(torch.full((1, 3, 3), torch.nan)) is None
    assert "eigenvectors" in caplog.text


@pytest.mark.parametrize("kind", ["turned a little", "nearly dependent", "dependent"])
@pytest.mark.parametrize("size", SIZES)
def test_rows_are_made_orthonormal(size, kind):
    """Each row spans with those before it what the given one does; where these determine it."""
    rows = torch.linalg.qr(random(2, size, size))[0]
    rows = rows * torch.logspace(0, 6, size)[:, None] + 1e-3 * random(2, size, size)  # lengths do not matter
    if kind == "nearly dependent":
        rows[:, 1] = rows[:, 0] + 1e-3 * rows[:, 1]
    if kind == "dependent":
        rows[:, 3:] = rows[:, :1]
    found = factors.orthonormal(rows)
    assert (found @ found.mT - torch.eye(size)).abs().max() < 1e-5
    if kind != "dependent":
        part = (rows / rows.norm(dim=-1, keepdim=True)) @ found.mT  # lower triangular
        assert part.triu(1).abs().max() < 1e-5


def test_a_basis_that_turned_a_little_needs_no_reflections(monkeypatch):
    size = factors.LARGE
    rows = torch.linalg.qr(random(1, size, size))[0] + 1e-3 * random(1, size, size)
    monkeypatch.delattr(torch.linalg, "qr")
    factors.orthonormal(rows)
