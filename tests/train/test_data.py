from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import surefoot as sf
from surefoot.train.data import Batches, to_device


class Numbers(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"x": torch.tensor(i), "targets": -i}


def kinds(n: int) -> dict:
    rows = torch.arange(n)
    return {"tensor": rows, "tuple": (rows, -rows), "set": TensorDataset(rows, -rows), "items": Numbers(n)}


def first(batch) -> list[int]:
    return (batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch, tuple | list) else batch).tolist()


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 10**9), st.integers(0, 5))
def test_every_kind_of_data_gives_the_same_batches(n, size, seed, epoch):
    orders = {}
    for kind, data in kinds(n).items():
        batches = Batches(data, size, seed, "training")
        got = [first(batch) for batch in batches.epoch(epoch)]
        assert len(got) == len(batches)
        assert all(len(batch) == size for batch in got[:-1])
        orders[kind] = got
        start = len(got) // 2
        assert [first(batch) for batch in batches.epoch(epoch, start)] == got[start:]
    assert len({str(order) for order in orders.values()}) == 1
    assert sorted(chain.from_iterable(orders["tensor"])) == list(range(n))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return [first(b) for b in Batches(torch.arange(100), 10, seed, "x").epoch(epoch)]

    torch.manual_seed(1)
    one = order(0, 0)
    torch.manual_seed(2)
    assert order(0, 0) == one
    assert order(0, 1) != one
    assert order(1, 0) != one
    assert list(chain.from_iterable(order(None, 3))) == list(range(100))


def test_drawing_an_order_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    for data in kinds(10).values():
        list(Batches(data, 2, 0, "x").epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_dataloader_is_taken_as_it_is():
    batches = Batches(DataLoader(Numbers(10), batch_size=3), 99, 0, "training")
    assert len(batches) == 4
    assert [first(b) for b in batches.epoch(0, start=2)] == [[6, 7, 8], [9]]


class Doubled(TensorDataset):
    def __getitem__(self, i):
        return 2 * super().__getitem__(i)[0]


def test_a_subclass_of_tensordataset_does_its_own_thing():
    assert first(next(Batches(Doubled(torch.arange(3)), 3, None, "x").epoch(0))) == [0, 2, 4]


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def test_named_tuples_stay_named():
    moved = to_device(Pair(torch.ones(1), torch.ones(2)), torch.device("meta"))
    assert moved.y.device.type == "meta"


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.zeros(0, 3), "the training data are empty"),
        ((torch.zeros(0, 3), torch.zeros(0)), "are empty"),
        ((), "are empty"),
        (Numbers(0), "are empty"),
        (DataLoader(Numbers(3), batch_size=5, drop_last=True), "are empty"),
        (torch.tensor(3.0), "are empty"),
        ((torch.zeros(3), torch.zeros(4)), "unequal lengths: [3, 4]"),
        (Stream(), "a stream"),
        (DataLoader(Stream()), "a stream"),
        ([1, 2, 3], "not (int, int, int)"),
        ("digits", "not str"),
        (list(range(10**6)), "not (int, int, int, int, int, int, ...)"),
    ],
)
def test_data_that_cannot_be_are_named(data, words):
    with pytest.raises(sf.UserError) as error:
        Batches(data, 4, 0, "training")
    assert words in str(error.value)


def test_whole_batches_move():
    moved = to_device({"a": [torch.ones(1), (torch.ones(2), "text")]}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert moved["a"][1][1] == "text"
