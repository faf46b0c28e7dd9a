"""A watch says what it could not see."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import surefoot as sf
from surefoot.diagnose import knowledge
from surefoot.diagnose.watch import Watch


def train(watch_loss: bool, validate: bool = False) -> Watch:
    torch.manual_seed(0)
    model, criterion = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 4), torch.arange(8) % 2
    with sf.watch(model, optimizer, loss=criterion if watch_loss else None, quiet=True) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        if validate:
            with watch.validation(), torch.no_grad():
                criterion(model.eval()(x), y)
    return watch


def test_all_is_seen_where_all_is_shown():
    assert train(True, validate=True).blind == {}


def test_a_loss_that_nobody_has_shown():
    blind = train(False).blind
    assert "watch.observe" in blind["output-activation"]
    assert "watch.observe" in blind["lr-too-high"]
    assert "output-activation" not in train(True).blind


def test_reasons_are_plain_english():
    assert all(type(why) is str and why.isascii() for why in train(False).blind.values())


def test_no_validation():
    assert train(True).blind["overtrained"] == "no validation was seen"


def test_layers_within_compiled_code():
    model = torch.compile(nn.Sequential(nn.Linear(4, 2)), backend="eager")
    watch = sf.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), quiet=True)
    assert "compiled" in watch.blind["dead-units"]
    watch.close()


LISTS = {
    n: codes for n, codes in vars(importlib.import_module("surefoot.diagnose.blind")).items() if n.startswith("OF_")
}


@pytest.mark.parametrize("name", LISTS)
def test_what_it_speaks_of_are_known_causes(name):
    assert LISTS[name]
    assert set(LISTS[name]) <= set(knowledge.causes())
    assert len(set(LISTS[name])) == len(LISTS[name])
