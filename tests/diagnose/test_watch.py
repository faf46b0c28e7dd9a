"""sf.watch: what it finds in faulty loops, that it is silent in sound ones, and that it changes nothing."""

from __future__ import annotations

import copy
import gc
import json
import logging
import weakref

import numpy as np
import pytest
import torch
from faulty import CASES, SOUNDS, Setting, run
from torch import nn
from torch.nn import functional as F

import surefoot as sf
from surefoot.diagnose.finding import Finding
from surefoot.diagnose.watch import Watch


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_named(name):
    cause, setting = CASES[name]
    watch, _ = run(setting)
    assert "watch" not in watch.blind, watch.blind
    assert cause in [finding.cause for finding in watch.findings]
    assert len(watch.findings) <= 3
    for finding in watch.findings:
        assert finding.first_step >= 0
        assert finding.remedies
        assert finding.text("en") != finding.text("zh")


@pytest.mark.parametrize("name", SOUNDS)
def test_what_is_sound_gets_no_warning(name):
    watch, losses = run(SOUNDS[name])
    assert "watch" not in watch.blind, watch.blind
    assert np.mean(losses[-20:]) < 0.6 * losses[0]
    assert [finding for finding in watch.findings if finding.severity != "info"] == []


def trained(watched, ours=False, compile=False, steps=120, seed=0):
    """Weights, buffers and random numbers after a training with dropout and batch norm."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = (sf.optim.AdamW if ours else torch.optim.AdamW)(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True) if watched else None
    for _ in range(steps):
        x, y = torch.randn(16, 6), torch.randint(3, (16,))
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    if watch is not None:
        watch.close()
        assert "watch" not in watch.blind
    return [*model.state_dict().values(), torch.get_rng_state()], watch


@pytest.mark.parametrize("ours", [False, True])
def test_a_watched_training_is_the_same_to_the_bit(ours):
    alone, _ = trained(False, ours)
    watched, _ = trained(True, ours)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_the_same_seed_gives_the_same_findings():
    found = [[finding.to_dict() for finding in run(CASES["adam at 1"][1], seed=3)[0].findings] for _ in range(2)]
    assert found[0] == found[1]


def hooks(module):
    return sum(
        len(getattr(part, name))
        for part in module.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    )


def test_nothing_is_left_behind():
    model, criterion = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    x, y = torch.randn(8, 4), torch.arange(8) % 2
    criterion(model(x), y).backward()
    optimizer.step()
    watch.close()
    assert hooks(model) == hooks(criterion) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert all(
        not p._post_accumulate_grad_hooks for p in model.parameters() if p._post_accumulate_grad_hooks is not None
    )
    last = weakref.ref(x)
    del x
    gc.collect()
    assert last() is None
    watch.close()  # again: nothing happens


@pytest.mark.parametrize("steps", [60, 200])
def test_a_resumed_watch_goes_on_as_if_it_had_not_stopped(steps):
    def loop(watch, model, optimizer, criterion, steps):
        for _ in range(steps):
            x = torch.randn(16, 4)
            optimizer.zero_grad()
            criterion(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        criterion = nn.CrossEntropyLoss()
        return sf.watch(model, optimizer, loss=criterion, quiet=True), model, optimizer, criterion

    whole = fresh()
    loop(*whole, steps)
    first = fresh()
    loop(*first, 23 if steps == 60 else 101)
    state, weights = copy.deepcopy(first[0].state_dict()), copy.deepcopy(first[1].state_dict())
    random = torch.get_rng_state()
    first[0].close()
    second = fresh()
    second[1].load_state_dict(weights)
    second[0].load_state_dict(state)
    torch.set_rng_state(random)
    loop(*second, 37 if steps == 60 else 99)
    for watch in (whole[0], second[0]):
        watch.close()
    assert [f.to_dict() for f in whole[0].findings] == [f.to_dict() for f in second[0].findings]
    assert whole[0].findings[0].cause == "output-activation"
    np.testing.assert_array_equal(whole[0]._collector.arrays()["steps"], second[0]._collector.arrays()["steps"])


def test_findings_are_told_once_and_logged_once(caplog):
    told: list[Finding] = []
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()
    with (
        caplog.at_level(logging.INFO, "surefoot"),
        sf.watch(model, optimizer, loss=criterion, on_finding=told.append) as watch,
    ):
        for _ in range(40):
            optimizer.zero_grad()
            criterion(model(torch.randn(16, 4)), torch.randint(3, (16,))).backward()
            optimizer.step()
    assert [finding.cause for finding in told].count("output-activation") == 1
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("output-activation" in record.getMessage() for record in warned) == 1
    assert caplog.records[-1].levelno == logging.INFO
    assert "output-activation" in caplog.records[-1].getMessage()
    assert watch.findings[0].cause == "output-activation"
    assert watch.findings[0].first_step == 0


def test_a_finding_survives_json():
    watch, _ = run(CASES["softmax before cross-entropy"][1])
    data = json.loads(json.dumps(watch.findings[0].to_dict(), allow_nan=False))
    assert Finding.from_dict(data) == watch.findings[0]
    assert data["text"]["zh"] == watch.findings[0].text("zh")
    assert data["remedies"][0]["en"]


def test_causes_can_be_ignored():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()
    with sf.watch(model, optimizer, loss=criterion, ignore=["output-activation"], quiet=True) as watch:
        for _ in range(5):
            criterion(model(torch.randn(16, 4)), torch.randint(3, (16,))).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert "output-activation" not in [finding.cause for finding in watch.findings]


def test_bad_input_is_refused_in_one_sentence():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(sf.UserError, match=r"the model must be a torch\.nn\.Module"):
        sf.watch(lambda x: x, optimizer)
    with pytest.raises(sf.UserError, match=r"no torch\.optim\.Optimizer"):
        sf.watch(model, "adam")
    with pytest.raises(sf.UserError, match=r"call watch\.observe"):
        sf.watch(model, optimizer, loss=F.mse_loss)
    with pytest.raises(sf.UserError, match="did you mean lr-too-high"):
        sf.watch(model, optimizer, ignore=["lr-to-high"])
    with pytest.raises(sf.UserError, match="steps"):
        sf.watch(model, optimizer, steps=0)
    assert hooks(model) == 0


def test_a_fault_of_the_watch_does_not_end_the_training(monkeypatch, caplog):
    def broken(self, *_, **__):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Watch, "_judge", broken)
    weights, watch = [None], None
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss()
    with caplog.at_level(logging.ERROR, "surefoot"):
        watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
        for _ in range(5):
            criterion(model(torch.randn(4, 3)), torch.randn(4, 1)).backward()
            optimizer.step()
        watch.close()
    assert "a fault of ours" in watch.blind["watch"]
    assert len(caplog.records) == 1
    assert watch.findings == []
    assert hooks(model) == 0
    assert weights


def test_several_optimizers_and_accumulation_count_steps_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizers = [torch.optim.Adam(model[0].parameters(), lr=0.01), torch.optim.SGD(model[2].parameters(), lr=0.01)]
    criterion = nn.MSELoss()
    with sf.watch(model, optimizers, loss=criterion, quiet=True) as watch:
        for _ in range(30):
            for _ in range(2):
                x = torch.randn(16, 4)
                (criterion(model(x), x[:, :1]) / 2).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert [step.step for step in watch._collector.signals.steps.items] == list(range(1, 31))
    assert {step.backwards for step in watch._collector.signals.steps.items} == {2}
    assert [finding for finding in watch.findings if finding.severity != "info"] == []


def test_a_million_steps_of_a_thousand_layers_fit_into_64_mb():
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(1000)])
    watch = sf.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), quiet=True)
    signals, looks = watch._collector.signals, watch._collector.glance
    count, layers = len(signals.names), len(signals.layers)
    from surefoot.watch.layers import FIELDS
    from surefoot.watch.signals import Look, Step

    for step in range(1_000_000):
        signals.steps.append(Step(step, 1.0, 0.1, 1.0, 1.0, 1, 1.0))
        if step % looks.every == 0:
            each = [np.zeros(count) for _ in range(5)]
            signals.looks.append(Look(step, *each, layers=np.zeros((layers, len(FIELDS)))))
    held = sum(array.nbytes for array in signals.arrays().values()) + len(signals.steps) * 400
    assert len(signals.steps) <= 1.25 * signals.steps.most
    assert held < 64 * 2**20
    watch.close()


def test_a_setting_is_what_the_tests_say_it_is():
    assert Setting().lr == 3e-3
    assert CASES["adam at 1"][1].lr == 1.0


@pytest.mark.parametrize("cleared", [True, False])
@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_gradients_that_a_closure_works_out(kind, cleared):
    """Lightning's way, and that of optimizers that ask many times a step."""
    torch.manual_seed(0)
    model, criterion = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)), nn.CrossEntropyLoss()
    ways = {"adam": torch.optim.Adam, "lbfgs": torch.optim.LBFGS}
    optimizer = ways[kind](model.parameters(), lr=0.01)
    x = torch.randn(256, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for _ in range(100 if kind == "adam" else 20):
        rows = torch.randperm(256)[:32] if kind == "adam" else torch.arange(256)

        def closure(rows=rows):
            if cleared:
                optimizer.zero_grad()
            loss = criterion(model(x[rows]), y[rows])
            loss.backward()
            return loss

        optimizer.step(closure)
    watch.close()
    causes = [finding.cause for finding in watch.findings if finding.severity != "info"]
    assert causes == [] if cleared else causes[0] == "grad-not-cleared"
    assert len(watch._collector.signals.looks) > 8


def test_large_batches_are_not_held_on_to():
    """Of the steps whose losses are still to be read only small batches stay."""
    model, criterion = nn.Linear(2048, 2), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sf.watch(model, optimizer, loss=criterion, quiet=True) as watch:
        for step in range(80):
            x = torch.randn(1024 if step > 60 else 8, 2048)
            optimizer.zero_grad()
            criterion(model(x), torch.zeros(len(x), dtype=torch.long)).backward()
            optimizer.step()
            batch = weakref.ref(x)
        del x
        model(torch.randn(8, 2048))  # what the watch holds of a forward pass is the last one
        assert batch() is None
    assert "watch" not in watch.blind
