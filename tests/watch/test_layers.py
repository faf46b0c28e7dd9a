"""What enters a layer, against the plain definition on all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.watch.layers import FIELDS, Layers, measured, sampled


def of(x: torch.Tensor, **kwargs: bool) -> dict[str, float]:
    made, rows = sampled(x, **kwargs)
    return dict(zip(FIELDS, measured(rows[None].astype(np.float64), [made])[0], strict=True))


def test_layers_of_one_shape_together_are_as_each_alone():
    parts = [torch.randn(16, 6).relu(), torch.full((16, 6), 9.0, requires_grad=True).tanh()]
    found = [sampled(x) for x in parts]
    together = measured(np.array([rows for _, rows in found], np.float64), [made for made, _ in found])
    for x, row in zip(parts, together, strict=True):
        assert of(x) == dict(zip(FIELDS, row, strict=True))


def test_dead_units_and_zeros():
    x = torch.rand(32, 10) + 0.1
    x[:, :4] = 0
    found = of(x)
    assert found["dead"] == pytest.approx(0.4)
    assert found["zeros"] == pytest.approx(0.4)
    assert found["scale"] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
    assert (found["units"], found["rows"]) == (10, 32)


def test_of_images_a_unit_is_a_channel():
    x = torch.rand(4, 6, 5, 5) + 0.1
    x[:, 2] = 0
    found = of(x, channels_first=True)
    assert found["units"] == 6
    assert found["dead"] == pytest.approx(1 / 6)


def test_saturation_needs_a_bounded_activation():
    x = torch.full((16, 4), 10.0, requires_grad=True)
    assert of(x.tanh())["saturated"] == 1
    assert of(x * 0.1)["saturated"] == 0
    assert of((x * 0.01).tanh())["saturated"] == 0


def test_units_that_are_as_their_neighbours():
    assert of(torch.randn(16, 1).expand(16, 5))["equal"] == 1
    assert of(torch.randn(16, 5))["equal"] == 0


def test_hooks_are_there_only_while_it_looks():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    layers = Layers(model)
    model(torch.randn(8, 3))
    assert torch.tensor(layers.table()).isnan().all()
    layers.begin()
    model(torch.randn(8, 3))
    assert torch.tensor(layers.table()).isfinite().all()
    layers.end()
    assert not any(part._forward_pre_hooks for part in model.modules())
