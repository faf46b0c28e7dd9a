from __future__ import annotations

import random
import signal
from itertools import chain
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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
    return {
        "tensor": rows,
        "tuple": (rows, -rows),
        "dict": {"x": rows, "targets": -rows},
        "set": TensorDataset(rows, -rows),
        "items": Numbers(n),
    }


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
        ({"x": torch.zeros(3), "targets": torch.zeros(4)}, "unequal lengths: [3, 4]"),
        ({"x": torch.zeros(3), "targets": [1, 2, 3]}, "not {x: float32 [3], targets: (int, int, int)}"),
        (iter([torch.zeros(3)]), "can be gone through once only"),
        (lambda: 0, "not function"),
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


class Augmented(Numbers):
    """Each item with numbers that Python, NumPy and torch draw."""

    def __getitem__(self, i):
        return torch.tensor([i, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def drawn(batches: Batches, epoch: int, start: int = 0) -> list[torch.Tensor]:
    try:
        return list(batches.epoch(epoch, start))
    finally:
        batches.close()


@pytest.mark.parametrize("make", [lambda: Augmented(23), lambda: DataLoader(Augmented(23), batch_size=5, shuffle=True)])
def test_what_is_drawn_for_an_item_depends_on_seed_and_epoch_alone(make):
    """Not on the workers, nor on where the epoch was resumed, nor on what was drawn before."""
    torch.manual_seed(1)
    whole = drawn(Batches(make(), 5, 7, "x"), 3)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(whole, drawn(Batches(make(), 5, 7, "x"), 3), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], drawn(Batches(make(), 5, 7, "x"), 3, 2), strict=True))
    assert not torch.equal(whole[0], drawn(Batches(make(), 5, 7, "x"), 4)[0])
    assert not torch.equal(whole[0], drawn(Batches(make(), 5, 8, "x"), 3)[0])
    together = torch.cat(whole)
    assert sorted(together[:, 0].tolist()) == list(range(23))
    assert len(set(together[:, 1].tolist())) == len(set(together[:, 3].tolist())) == 23


def test_workers_change_neither_order_nor_augmentation():
    alone, helped = Batches(Augmented(23), 5, 7, "x"), Batches(Augmented(23), 5, 7, "x", workers=2)
    for epoch, start in ((0, 0), (1, 2), (2, 0)):
        pairs = zip(alone.epoch(epoch, start), helped.epoch(epoch, start), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    next(helped.epoch(3))  # left in the middle
    assert torch.equal(next(alone.epoch(4)), next(helped.epoch(4)))
    helped.close()
    loader = DataLoader(Augmented(23), batch_size=5, num_workers=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            drawn(Batches(loader, 0, 7, "x"), 1),
            drawn(Batches(DataLoader(Augmented(23), 5), 0, 7, "x"), 1),
            strict=True,
        )
    )


class Signals(Numbers):
    def __getitem__(self, i):
        return [signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGINT, signal.SIGTERM)]


def test_workers_leave_signals_to_the_parent():
    (batch,) = drawn(Batches(Signals(2), 2, 0, "x", workers=1), 0)
    assert all(bool(ignored.all()) for ignored in batch)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
@settings(deadline=None)
def test_processes_share_the_batches_that_one_would_have(n, size, world, seed):
    one = list(Batches(torch.arange(n), size * world, seed, "x").epoch(2))
    parts = [list(Batches(torch.arange(n), size, seed, "x", rank=r, world=world).epoch(2)) for r in range(world)]
    assert {len(part) for part in parts} == {len(one)}
    for step, whole in enumerate(one):
        shared = [part[step].tolist() for part in parts]
        assert all(shared)
        assert max(map(len, shared)) - min(map(len, shared)) <= 1
        together = sorted(chain.from_iterable(shared))
        if len(whole) >= world:
            assert together == sorted(whole.tolist())
        else:  # too few for all: some come twice
            assert set(whole.tolist()) <= set(together)


def test_a_loaders_own_generator_is_left_as_it_was():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(Numbers(9), batch_size=2, shuffle=True, generator=generator)
    before = generator.get_state()
    batches = Batches(loader, 0, 3, "x")
    orders = [[first(b) for b in batches.epoch(e)] for e in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert torch.equal(generator.get_state(), before)


class Stream(IterableDataset):
    def __init__(self, n=10):
        self.n, self.epochs = n, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return iter(torch.arange(self.n))


class Remembers:
    """Batches that know where they are."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 6:
            self.at += 1
            yield torch.tensor([self.at])
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_stream_has_no_length_and_is_told_the_epoch():
    data = Stream()
    batches = Batches(data, 4, 0, "training")
    assert (batches.sized, batches.repeats) == (False, False)
    assert [b.tolist() for b in batches.epoch(5)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(sf.UserError, match="the training data are a stream"):
        len(batches)
    assert [b.tolist() for b in Batches(DataLoader(Stream(), batch_size=5), 1, 0, "x").epoch(0)][1] == [5, 6, 7, 8, 9]


def test_a_stream_without_a_state_is_passed_over_with_a_warning(caplog):
    batches = Batches(DataLoader(Stream(), batch_size=4), 1, 0, "training")
    assert [b.tolist() for b in batches.epoch(0, start=2)] == [[8, 9]]
    assert "the training data have no state_dict: to go on, 2 batches are passed over" in caplog.text


def test_a_stream_with_a_state_goes_on_by_it(caplog):
    batches = Batches(Remembers(), 1, 0, "x")
    whole = batches.epoch(0)
    assert [next(whole).item() for _ in range(2)] == [1, 2]
    state = batches.position_state()
    again = Batches(Remembers(), 1, 0, "x")
    again.load_position_state(state)
    assert [b.item() for b in again.epoch(0, start=2)] == [3, 4, 5, 6]
    assert [b.item() for b in again.epoch(1)] == [1, 2, 3, 4, 5, 6]
    assert not caplog.text


def test_processes_share_a_stream():
    parts = [[b.item() for b in Batches(Remembers(), 1, 0, "x", rank=r, world=4).epoch(0)] for r in range(4)]
    assert parts == [[1], [2], [3], [4]]


def test_beginning_a_stream_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    list(Batches(DataLoader(Stream(), batch_size=4), 1, 0, "x").epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_pinned_batch_is_asked_for_on_a_gpu_only():
    batches = Batches(Numbers(4), 2, 0, "x", pin=torch.cuda.is_available())
    assert first(next(batches.epoch(0)))
