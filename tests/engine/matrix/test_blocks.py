"""Symmetric matrices by their blocks on and above the diagonal."""

from __future__ import annotations

import pytest
import torch

from surefoot.engine.matrix import blocks


def whole(matrix: blocks.Blocks) -> torch.Tensor:
    parts = range(blocks.parts_of(matrix))
    return torch.cat([torch.cat([blocks.block(matrix, i, j) for j in parts], -1) for i in parts], -2)


@pytest.fixture(params=[1, 2, 4])
def matrices(request):
    """X in blocks of rows, its Gram matrix, the same in blocks, and one that commutes with it."""
    torch.manual_seed(0)
    x = torch.randn(2, 10, 30, dtype=torch.float64)
    g = x @ x.mT
    split = blocks.gram(x.tensor_split(request.param, 1), True)
    return x.tensor_split(request.param, 1), g, split, blocks.product(split, split, plus=split, beta=0.5, alpha=2.0)


def test_gram_matrices(matrices):
    x, g, split, _ = matrices
    torch.testing.assert_close(whole(split), g)
    columns = [part.mT for part in x]
    torch.testing.assert_close(whole(blocks.gram(columns, False)), g)


def test_products(matrices):
    _, g, split, h = matrices
    right = 0.5 * g + 2 * g @ g
    torch.testing.assert_close(whole(h), right)
    torch.testing.assert_close(whole(blocks.product(h, split, plus=h, beta=3.0)), 3 * right + right @ g)


def test_diagonals(matrices):
    _, g, split, h = matrices
    wanted = whole(h)
    torch.testing.assert_close(whole(blocks.add_to_diagonal(split, 2.5)), g + 2.5 * torch.eye(10, dtype=g.dtype))
    torch.testing.assert_close(whole(split), g)  # as it was
    torch.testing.assert_close(torch.cat(blocks.diagonal(h), -1), wanted.diagonal(dim1=1, dim2=2))
    found = torch.cat(blocks.diagonal_of_product(h, split, plus=split, beta=2.0), -1)
    torch.testing.assert_close(found, (2 * g + wanted @ g).diagonal(dim1=1, dim2=2))


def test_a_number_is_added_before_half_precision_rounds_it():
    half = {(0, 0): torch.full((1, 1, 1), 0.0078125, dtype=torch.bfloat16)}
    found = blocks.add_to_diagonal(half, 3.4445)[0, 0]
    assert found.item() == torch.tensor(3.4445 + 0.0078125).bfloat16().item()


def test_products_with_rows_and_columns(matrices):
    x, g, split, _ = matrices
    rows = torch.cat(list(x), 1)
    torch.testing.assert_close(torch.cat(blocks.times(split, x, True, 1.5), 1), 1.5 * rows + g @ rows)
    columns = [part.mT for part in x]
    found = torch.cat(blocks.times(split, columns, False, 1.5), 2)
    torch.testing.assert_close(found, 1.5 * rows.mT + rows.mT @ g)
