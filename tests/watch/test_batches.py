"""What is known of the data, against numpy on all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.watch.batches import Batches, Data, Moments, fingerprints


def test_moments_are_those_of_all_rows():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6) + 3
    moments = Moments()
    for part in x.split(32):
        moments.add(part)
    assert moments.mean == pytest.approx(x.double().mean(0).numpy())
    assert moments.std == pytest.approx(x.double().std(0, correction=0).numpy(), rel=1e-6)
    assert (moments.low, moments.high) == pytest.approx((float(x.min()), float(x.max())))


def test_what_is_not_finite_is_counted_apart():
    moments = Moments()
    moments.add(torch.tensor([[1.0, 2.0], [float("nan"), 4.0], [3.0, float("inf")]]))
    assert moments.broken == 2
    assert moments.mean.tolist() == [1.0, 2.0]


def test_a_batch_far_larger_than_those_before_is_odd_and_left_out():
    moments = Moments()
    for _ in range(10):
        moments.add(torch.ones(4, 2))
    moments.add(1000 * torch.ones(4, 2))
    assert moments.odd == 1
    assert moments.mean.tolist() == [1.0, 1.0]


def test_an_epoch_is_over_when_the_first_items_come_again():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    batches = Batches()
    assert [batches.remember(part) for part in (*x.split(16), x[8:24])] == [False, False, False, False, True]
    assert batches.known(x[40:]) == 1.0
    assert batches.known(torch.randn(16, 8, generator=torch.Generator().manual_seed(1))) == 0.0


def test_classes_are_counted():
    data = Data()
    data.add_targets(torch.tensor([0, 1, 1, 5]))
    data.add_targets(torch.tensor([5, 5]))
    assert data.kind == "classes"
    assert data.classes == {0: 1, 1: 2, 5: 3}


def test_it_comes_back_from_arrays():
    batches = Batches()
    for part in torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).split(16):
        batches.remember(part)
        batches.train.add_inputs((part, {"mask": part[:, :1]}))
        batches.train.add_targets(part.argmax(1))
    other = Batches()
    other.load(batches.arrays(), batches.rest())
    assert other.items == batches.items
    assert other.first == batches.first
    assert other.train.classes == batches.train.classes
    for place, moments in batches.train.inputs.items():
        assert np.array_equal(other.train.inputs[place].mean, moments.mean)


def test_fingerprints_tell_items_apart_whatever_their_dtype():
    for x in (torch.arange(12.0).reshape(6, 2), torch.arange(12).reshape(6, 2), torch.arange(12.0).bfloat16()[:, None]):
        prints = fingerprints(x)
        assert len(set(prints)) == len(x)
    assert prints == fingerprints(x.clone())
    assert fingerprints(None) == []
