"""Parameters of one shape as stacks."""

from __future__ import annotations

import torch

from surefoot.engine.matrix.stacks import ALONE, AT_ONCE, alike, matrices, put
from surefoot.engine.precondition import Member


def member(*shape: int, dtype: torch.dtype = torch.float32) -> Member:
    return Member(torch.zeros(shape), torch.zeros(shape, dtype=dtype), {}, 0, 0.1, 1)


def test_what_is_alike_goes_together():
    members = [member(2, 3), member(3, 2), member(2, 3), member(2, 3, dtype=torch.float64), member(2, 3)]
    assert list(alike(members, [1, 1, 1, 1, 2])) == [[0, 2], [1], [3], [4]]


def test_large_ones_go_alone_if_asked_and_portions_have_a_limit():
    large = [member(1, ALONE) for _ in range(3)]
    assert list(alike(large, [1] * 3)) == [[0, 1, 2]]
    assert list(alike(large, [1] * 3, alone=True)) == [[0], [1], [2]]
    half = [member(1, AT_ONCE["cpu"] // 2) for _ in range(3)]
    assert list(alike(half, [1] * 3)) == [[0, 1], [2]]


def test_what_is_put_arrives():
    for tensors in ([torch.zeros(2, 3, 1)], [torch.zeros(2, 3, 1), torch.ones(2, 3, 1)], [torch.zeros(4).bfloat16()]):
        stack = matrices(tensors)
        stack += 1
        wanted = stack.clone()
        put(stack, tensors)
        assert torch.equal(matrices(tensors), wanted)
