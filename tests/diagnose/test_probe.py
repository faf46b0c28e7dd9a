"""The counterfactual probe: what it ranks first, that it leaves no trace, what it refuses."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from faulty import CASES, REGRESS, SOUND, run
from torch import nn
from torch.nn import functional as F

import surefoot as sf
from surefoot.diagnose.finding import Finding
from surefoot.diagnose.weighing import exchanged, weighed

DEEP = replace(SOUND, depth=6, optimizer=torch.optim.SGD, lr=0.1, steps=60)
RANKED = {  # the setting, its cause, the neighbours that dynamics alone might name
    "ten times too high": (CASES["adam at 1"][1], "lr-too-high", ("input-unscaled", "init-too-large", "no-warmup")),
    "too low": (CASES["adam at 1e-6"][1], "lr-too-low", ("optimizer-unsuited", "batch-too-large", "undertrained")),
    "clipped": (CASES["clip of 1e-3"][1], "clip-too-tight", ("lr-too-low", "undertrained", "optimizer-unsuited")),
    "inputs": (CASES["inputs of 1e-4"][1], "input-unscaled", ("lr-too-low", "optimizer-unsuited")),
    "large inputs": (CASES["inputs of 300"][1], "input-unscaled", ("lr-too-high", "init-too-large", "loss-sum")),
    "large init": (CASES["large init"][1], "init-too-large", ("lr-too-high", "input-unscaled")),
    "deep, by SGD": (DEEP, "optimizer-unsuited", ("lr-too-low", "undertrained", "batch-too-large")),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RANKED)
def test_the_cause_is_named_over_its_neighbours(name):
    setting, cause, neighbours = RANKED[name]
    watch, _ = run(setting)
    probe = watch.probe()
    for neighbour in neighbours:
        named = exchanged(Finding("plateau", neighbour, "warning", 0), probe)
        assert named.cause == cause, f"{neighbour}\n{probe.text()}"
        assert neighbour in named.alternatives
        assert any(each.name.startswith("gain_") for each in named.evidence)
    assert watch.findings[0].cause == cause
    assert any(each.name.startswith("gain_") for each in watch.findings[0].evidence)
    assert cause in probe.text()
    assert cause in probe.text("zh")


@pytest.mark.parametrize("setting", [SOUND, REGRESS], ids=["classes", "numbers"])
def test_a_sound_training_stays_sound(setting):
    watch, _ = run(setting)
    watch.probe()
    assert [finding for finding in watch.findings if finding.severity != "info"] == []


def test_a_fact_stays_first_whatever_is_tried():
    watch, _ = run(replace(CASES["sum ce"][1], lr=3.0))
    first = watch.findings[0].cause
    assert first == "loss-sum"
    watch.probe()
    assert watch.findings[0].cause == first
    low = run(CASES["adam at 1e-6"][1])[0].probe()
    known = Finding("plateau", "optimizer-unsuited", "warning", 0)
    assert weighed([known], low, certain=["optimizer-unsuited"])[0].cause == "optimizer-unsuited"
    assert weighed([known], low)[0].cause == "lr-too-low"
    assert weighed([known], low, ignore=["lr-too-low"])[0].cause != "lr-too-low"


class Odd(nn.Module):
    """A model with all that is easily left behind: buffers that are replaced, counts, lists, its own random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("empty", torch.tensor([float("nan"), -0.0]))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.calls, self.seen, self.own = 0, [], torch.Generator().manual_seed(3)

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        random.random(), np.random.rand()
        return self.net(x + 0.01 * torch.randn(x.shape, generator=self.own) - 0.1 * self.mean)


OPTIMIZERS = {
    "torch adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "torch sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "torch adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "torch lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.05, max_iter=2),
    "our adamw": lambda p: sf.optim.AdamW(p, lr=0.01, clip_norm=1.0),
    "our adagrad": lambda p: sf.optim.Adagrad(p, lr=0.05),
    "our lookahead": lambda p: sf.optim.SGD(p, lr=0.05),
}


def trained(kind, probe_at, steps=24):
    """All that a training with an odd model leaves, and its watch; a probe at one of four places of a step, or none."""
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    model, criterion = Odd(), nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[kind](model.net.parameters())
    if kind == "our lookahead":
        sf.optim.Lookahead(optimizer)
    stepped = []
    optimizer.register_step_post_hook(lambda *_: stepped.append(1))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)

    def maybe(place, step):
        if probe_at == place and step in (9, 17):
            kept = list(map(id, model.buffers())), [p.grad for p in model.parameters()], dict(model._forward_hooks)
            assert watch.probe(steps=3).trials
            assert kept[0] == list(map(id, model.buffers()))
            assert all(a is p.grad for a, p in zip(kept[1], model.parameters(), strict=True))

    for step in range(steps):
        x, y = torch.randn(16, 6), torch.randint(3, (16,))
        maybe("before", step)

        def closure(x=x, y=y, step=step):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            if kind != "torch lbfgs":
                maybe("after forward", step)
            loss.backward()
            return loss

        if kind == "torch lbfgs":
            optimizer.step(closure)
        else:
            closure()
            maybe("after backward", step)
            optimizer.step()
        schedule.step()
    model.eval()
    maybe("in evaluation", steps)
    watch.close()
    assert "watch" not in watch.blind, watch.blind
    state = optimizer.state_dict()
    left = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    left += [v for kept in state["state"].values() for v in kept.values() if isinstance(v, torch.Tensor)]
    left += [torch.get_rng_state(), model.own.get_state(), torch.tensor([random.random(), np.random.rand()])]
    left += [torch.tensor([float(model.calls), float(len(model.seen)), float(len(stepped)), float(model.training)])]
    return left, state["param_groups"], watch


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("place", ["before", "after forward", "after backward"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_training_with_a_probe_in_the_middle_is_the_same_to_the_bit(kind, place):
    alone, groups, watch = trained(kind, None)
    probed, others, other = trained(kind, place)
    assert same(alone, probed)
    assert str(groups) == str(others)
    losses = [[step.loss for step in w._collector.signals.steps.items] for w in (watch, other)]
    assert losses[0] == losses[1]
    assert watch._collector.signals.counts == other._collector.signals.counts


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    return model, torch.optim.Adam(model.parameters(), lr=0.01), nn.CrossEntropyLoss()


def some(n=4):
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 4, generator=g), torch.randint(2, (16,), generator=g)) for _ in range(n)]


def loop(model, optimizer, criterion, watch, batches):
    for x, y in batches:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        if not isinstance(criterion, nn.Module):
            watch.observe(loss=loss, outputs=None, targets=y)
        loss.backward()
        optimizer.step()


def test_what_raises_in_a_probe_leaves_nothing_changed():
    model, optimizer, criterion = small()
    model[1].weight.requires_grad_(False)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    loop(model, optimizer, criterion, watch, some())
    model.eval()
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    numbers, calls = torch.get_rng_state(), []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) > 30:
            raise ZeroDivisionError("the user's own")
        return F.cross_entropy(outputs, targets)

    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        watch.probe(loss=loss)
    assert same([*before.values()], [*model.state_dict().values()])
    assert str(state) == str(optimizer.state_dict())
    assert torch.equal(numbers, torch.get_rng_state())
    assert not model.training
    assert not model[1].weight.requires_grad
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    watch.close()


def test_optimizers_that_step_in_backward_do_not_step_in_a_probe():
    model, _, criterion = small()
    optimizer = sf.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step_in_backward()
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    loop(model, optimizer, criterion, watch, some())
    before = copy.deepcopy(model.state_dict())
    assert watch.probe(steps=5).trials
    assert same([*before.values()], [*model.state_dict().values()])
    loop(model, optimizer, criterion, watch, some(1))
    assert not same([*before.values()], [*model.state_dict().values()])
    watch.close()


def test_batches_and_a_loss_can_be_given():
    model, optimizer, _ = small()
    watch = sf.watch(model, optimizer, quiet=True)
    loop(model, optimizer, F.cross_entropy, watch, some())
    probe = watch.probe(iter(some(40)), F.cross_entropy, steps=2)
    assert probe.batches == 32
    assert watch.probe(loss=lambda outputs, targets: F.cross_entropy(outputs, targets), steps=1).batches == 4
    named = [({"input": x}, y) for x, y in some()]
    assert [t.after for t in watch.probe(named, F.cross_entropy).trials] == [
        t.after for t in watch.probe([((x,), y) for x, y in some()], F.cross_entropy).trials
    ]
    watch.close()


def test_what_cannot_be_probed_is_refused_in_one_sentence():
    model, optimizer, criterion = small()
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    with pytest.raises(sf.UserError, match="no batches have been kept yet"):
        watch.probe()
    with pytest.raises(sf.UserError, match="there are no batches"):
        watch.probe(iter([]))
    with pytest.raises(sf.UserError, match="steps=0"):
        watch.probe(some(), steps=0)
    with pytest.raises(sf.UserError, match=r"does not take what the model returns.*float32 \[16, 2\]"):
        watch.probe([(x, y[:, None].float()) for x, y in some()])
    with pytest.raises(sf.UserError, match="does not depend on the parameters"):
        watch.probe(some(), lambda outputs, targets: outputs.detach().sum())
    watch.close()
    plain = sf.watch(model, optimizer, quiet=True)
    loop(model, optimizer, F.cross_entropy, plain, some())
    with pytest.raises(sf.UserError, match=r"probe\(loss=lambda outputs, targets"):
        plain.probe()
    plain.close()
    several = nn.Module()
    several.add_module("module", model)
    several.__class__ = type("DistributedDataParallel", (nn.Module,), {"forward": lambda self, x: self.module(x)})
    shared = sf.watch(several, optimizer, loss=criterion, quiet=True)
    with pytest.raises(sf.UserError, match=r"several processes \(DistributedDataParallel\)"):
        shared.probe(some())
    shared.close()


def test_outputs_that_would_broadcast_are_refused():
    model, criterion = nn.Linear(4, 1), nn.MSELoss()
    watch = sf.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=criterion, quiet=True)
    with pytest.raises(sf.UserError, match="which does what the loop does"):
        watch.probe([(x, y.float()) for x, y in some()])
    assert watch.probe([(x, y.float()) for x, y in some()], lambda o, t: F.mse_loss(o[:, 0], t), steps=2).trials
    watch.close()


def test_weights_that_are_no_numbers_leave_nothing_to_try():
    model, optimizer, criterion = small()
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    probe = watch.probe(some())
    assert probe.trials == ()
    assert "nan" in probe.text()
    assert "nan" in probe.text("zh")
    assert "nothing could be tried" in repr(probe)
    watch.close()


def test_rare_rows_and_groups_of_their_own():
    """Sparse gradients, several optimizers, groups with rates of their own."""
    torch.manual_seed(0)

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.head = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.rows(x).mean(1))

    model, criterion = Bag(), nn.CrossEntropyLoss()
    optimizers = [
        torch.optim.SparseAdam(model.rows.parameters(), lr=0.01),
        torch.optim.SGD([{"params": [model.head.weight], "lr": 0.1}, {"params": [model.head.bias], "lr": 0.01}]),
    ]
    watch = sf.watch(model, optimizers, loss=criterion, quiet=True)
    batches = [(torch.randint(50, (16, 5)), torch.randint(2, (16,))) for _ in range(4)]
    before = copy.deepcopy(model.state_dict())
    probe = watch.probe(batches, steps=5)
    assert {t.name for t in probe.trials} >= {"as-it-is", "rate-up", "rate-down"}
    assert "optimizer" not in {t.name for t in probe.trials}
    assert "scaled" not in {t.name for t in probe.trials}
    assert same([*before.values()], [*model.state_dict().values()])
    watch.close()
