"""Newton-Schulz: the Gram form and its blocks give what the iteration as written does."""

from __future__ import annotations

import pytest
import torch

import surefoot as sf
from surefoot.engine.matrix import newton_schulz
from surefoot.engine.matrix.newton_schulz import MUON, orthogonalize, scale

SHAPES = [(6, 6), (6, 20), (20, 6), (10, 12), (1, 5), (5, 1), (520, 600), (1100, 1030)]


def stack(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def as_written(x: torch.Tensor, steps: int, coefficients) -> torch.Tensor:
    a, b, c = coefficients
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    for _ in range(steps):
        g = x @ x.mT
        x = a * x + (b * g + c * g @ g) @ x
    return x.mT if tall else x


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_iteration(shape, steps):
    x = stack(2, *shape)
    kept = x.clone()
    right = as_written(x, steps, MUON)
    assert (orthogonalize(x, steps) - right).norm() < 1e-8 * right.norm()
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 64), (128, 512), (512, 128), (520, 1600)])
def test_in_low_precision_it_does_to_singular_values_what_the_polynomial_does(shape, dtype):
    x = stack(1, *shape, dtype=torch.float32)
    found = orthogonalize(x, dtype=dtype)
    assert found.dtype == dtype
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s /= s.norm()
    for _ in range(5):
        s = MUON[0] * s + MUON[1] * s**3 + MUON[2] * s**5
    along = u.mT @ found.float() @ v.mT
    assert (along - torch.diag_embed(s)).norm() < (0.05 if dtype == torch.bfloat16 else 1e-4) * min(shape) ** 0.5


def test_small_singular_values_survive_half_precision():
    """They grow by a at each step; rounding of the large ones must not drown them."""
    u, _, v = torch.linalg.svd(stack(1, 128, 512, dtype=torch.float32), full_matrices=False)
    s = torch.logspace(0, -3, 128)
    right = as_written((u * s) @ v, 5, MUON)
    found = orthogonalize((u * s) @ v, dtype=torch.bfloat16).float()
    along = (u.mT @ found @ v.mT).diagonal(dim1=-2, dim2=-1)
    wanted = (u.mT @ right @ v.mT).diagonal(dim1=-2, dim2=-1)
    assert (along - wanted).abs().max() < 0.1


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e25])
def test_sizes_do_not_matter_and_zero_stays(size):
    x = stack(1, 8, 12, dtype=torch.float32)
    found = orthogonalize(size * x, eps=1e-20)
    torch.testing.assert_close(found, orthogonalize(x), atol=1e-4, rtol=1e-4)
    assert not orthogonalize(torch.zeros(1, 3, 4)).any()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_blocks_change_nothing(monkeypatch, parts):
    x = stack(2, 12, 40)
    right = as_written(x, 5, MUON)
    monkeypatch.setattr(newton_schulz, "parts_of", lambda *_: parts)
    for each, wanted in ((x, right), (x.mT, right.mT)):
        assert (orthogonalize(each) - wanted).norm() < 1e-8 * right.norm()


def test_scales():
    assert scale((2048, 512)) == scale((2048, 512), "original") == 2
    assert scale((512, 2048)) == 1
    assert scale((100, 25), "match_rms_adamw") == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: orthogonalize(torch.zeros(3, 4)), "[3, 4]"),
        (lambda: orthogonalize(torch.zeros(1, 3, 4, dtype=torch.int64)), "int64"),
        (lambda: orthogonalize(torch.zeros(1, 3, 4), steps=-1), "steps=-1"),
        (lambda: orthogonalize(torch.zeros(1, 3, 4), eps=0), "eps=0"),
        (lambda: scale((3, 4), "spectral"), "spectral"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(sf.UserError) as error:
        call()
    assert words in str(error.value)
