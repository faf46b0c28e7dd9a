"""A witness notices every change to the objects it is of, and a plan that has one asks them no more."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import nn

import surefoot as sf
from surefoot.engine import plan, scan, witness
from surefoot.engine.witness import layout

pytestmark = pytest.mark.skipif(layout() is None, reason="this Python or this torch is not what a witness is made for")


def objects() -> tuple[torch.Tensor, dict, list]:
    t = torch.arange(24.0).reshape(2, 3, 4)
    return t, defaultdict(dict, {"s": torch.zeros(2), 3: "three", None: {}}), [t, "t"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t, d, items: t.add_(1),
        lambda t, d, items: t[0].zero_(),
        lambda t, d, items: t.view(6, 4).t_(),
        lambda t, d, items: t.storage_offset(),
        lambda t, d, items: t.clone().resize_(99),
        lambda t, d, items: d["s"].add_(1),
        lambda t, d, items: [*d.items(), *items],
        lambda t, d, items: d.get("absent"),
        lambda t, d, items: items.append(items.pop()),
    ],
)
def test_a_witness_holds_while_its_objects_stay_the_same(change):
    t, d, items = objects()
    found = witness.witness([t], [d], [items])
    change(t, d, items)
    assert found.holds()
    assert found.holds()


@pytest.mark.parametrize(
    "change",
    {
        "data": lambda t, d, items: setattr(t, "data", t.clone()),
        "data of another dtype": lambda t, d, items: setattr(t, "data", t.double()),
        "transposed": lambda t, d, items: t.transpose_(0, 1),
        "fewer dimensions": lambda t, d, items: t.squeeze_().resize_(24),
        "one more dimension": lambda t, d, items: t.unsqueeze_(0),
        "larger": lambda t, d, items: t.resize_(4, 3, 4),
        "storage made larger": lambda t, d, items: t.untyped_storage().resize_(4096),
        "storage emptied": lambda t, d, items: t.untyped_storage().resize_(0),
        "set to another": lambda t, d, items: t.set_(torch.zeros(2, 3, 4)),
        "set to another place": lambda t, d, items: t.set_(t.untyped_storage(), 1, (2, 3, 3), (9, 3, 1)),
        "swapped": lambda t, d, items: torch.utils.swap_tensors(d["s"], torch.zeros(2)),
        "shared with other processes": lambda t, d, items: t.share_memory_(),
        "item replaced": lambda t, d, items: d.update(s=torch.zeros(2)),
        "item removed": lambda t, d, items: d.pop("s"),
        "item added": lambda t, d, items: d["new"],
        "emptied": lambda t, d, items: d.clear(),
        "other order": lambda t, d, items: d.update(s=d.pop("s")),
        "list appended": lambda t, d, items: items.append(1),
        "list shortened": lambda t, d, items: items.pop(),
        "list turned": lambda t, d, items: items.reverse(),
        "list's item replaced": lambda t, d, items: items.__setitem__(1, "other"),
        "list emptied": lambda t, d, items: items.clear(),
    }.values(),
)
def test_a_witness_notices_every_change(change):
    t, d, items = objects()
    found = witness.witness([t, d["s"]], [d], [items])
    del t  # the list and the witness hold it, as an optimizer does
    change(items[0], d, items)
    assert not found.holds()
    assert not found.holds()


@pytest.mark.parametrize(
    "of", [([torch.zeros(1, 1, 1, 1, 1, 1)], [], []), ([], ["no dict"], []), ([], [], [("no", "list")])]
)
def test_there_is_no_witness_of_other_objects(of):
    assert witness.witness(*of) is None


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Grows with every time that a plan asks all objects from Python."""
    calls: list[int] = []
    same = plan.Plan._same
    monkeypatch.setattr(plan.Plan, "_same", lambda *args: calls.append(1) or same(*args))
    return calls


def steps(opt: torch.optim.Optimizer, n: int, between=lambda: None) -> None:
    for _ in range(n):
        for p in (p for group in opt.param_groups for p in group["params"]):
            p.grad = torch.ones_like(p)
        between()
        opt.step()


def test_a_plan_asks_once_and_then_has_a_witness(asked):
    model = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 3, 1))
    opt = sf.optim.AdamW(model.parameters(), clip_norm=1.0, ema=0.9)
    steps(opt, 20)
    assert len(asked) == 1  # the first step plans, the second asks
    opt.state[model[0].bias]["exp_avg"] = torch.zeros(4)
    steps(opt, 20)
    assert len(asked) == 3


def test_witnesses_are_called_more_rarely_where_something_changes_at_every_step(asked, monkeypatch):
    called = []
    original = plan.witness
    monkeypatch.setattr(plan, "witness", lambda *args: called.append(1) or original(*args))
    model = nn.Linear(3, 4)
    opt, other = sf.optim.AdamW(model.parameters()), nn.Linear(3, 4)
    other.load_state_dict(model.state_dict())
    kept = opt.state[model.weight]
    steps(opt, 100, lambda: kept.update(mine=object()))
    steps(twin := torch.optim.AdamW(other.parameters()), 100)
    torch.testing.assert_close(model.weight, other.weight)
    assert opt.state[model.weight]["exp_avg"].shape == twin.state[other.weight]["exp_avg"].shape
    assert len(asked) > 90
    assert len(called) < 10
    asked.clear()
    steps(opt, 200)  # nothing changes any more
    assert len(asked) < 150


@pytest.mark.parametrize("missing", [witness, scan])
def test_without_a_witness_or_a_scan_the_numbers_are_the_same(missing, monkeypatch):
    found = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(missing, "layout" if missing is witness else "interface", lambda: None)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
        steps(sf.optim.AdamW(model.parameters(), clip_norm=1.0), 5)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_a_scan_looks_past_strides_that_mean_nothing():
    p = nn.Parameter(torch.zeros(4, 1, 3, 3))
    found = scan.np.zeros(1, scan.np.int64)
    look = scan.scan([p], found)
    p.grad = torch.zeros(4, 1, 3, 3).as_strided((4, 1, 3, 3), (9, 1, 3, 1))
    assert look() == 0
    assert found[0] == p.grad.data_ptr()
    p.grad = torch.zeros(4, 1, 3, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3)
    assert look() == -1
    p.grad = None
    assert look() == 1
