"""What loops do to weights, and what checks know of a loss: faults that are named, and their sound twins."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surefoot as sf


class Plain(nn.Module):
    """With its hidden layers in a list, registered or not."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        layers = [nn.Linear(6, 6) for _ in range(2)]
        self.layers = nn.ModuleList(layers) if registered else layers
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)


def batches(steps: int = 60):
    way = torch.randn(6, 1)
    for _ in range(steps):
        x = torch.randn(32, 6)
        yield x, x @ way


def causes(watch: sf.diagnose.watch.Watch) -> list[str]:
    watch.close()
    assert "watch" not in watch.blind, watch.blind
    return [finding.cause for finding in watch.findings if finding.severity != "info"]


@pytest.mark.parametrize("registered", [False, True])
def test_layers_in_a_plain_list(registered):
    torch.manual_seed(0)
    model, criterion = Plain(registered), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for x, y in batches():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    assert causes(watch) == ([] if registered else ["not-in-optimizer"])


def test_a_net_that_another_optimizer_trains_is_no_stray():
    torch.manual_seed(0)
    body, head = nn.Linear(6, 6), nn.Linear(6, 1)
    optimizer, other = torch.optim.Adam(head.parameters(), lr=1e-2), torch.optim.Adam(body.parameters(), lr=1e-2)
    watch = sf.watch(head, optimizer, quiet=True)
    for x, y in batches():
        optimizer.zero_grad()
        other.zero_grad()
        out = head(body(x).tanh())
        loss = F.mse_loss(out, y)
        watch.observe(loss=loss, outputs=out, targets=y)
        loss.backward()
        optimizer.step()
        other.step()
    assert causes(watch) == []


@pytest.mark.parametrize("undone", [False, True])
def test_steps_that_somebody_undoes(undone):
    torch.manual_seed(0)
    model, criterion = Plain(True), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for x, y in batches():
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        if undone:
            with torch.no_grad():
                for p, old in zip(model.parameters(), before, strict=True):
                    p.copy_(old)
    assert causes(watch)[:1] == (["step-without-effect"] if undone else [])


@pytest.mark.parametrize("back", [True, False])
def test_master_weights_are_wrong_only_where_they_are_not_copied_back(back):
    torch.manual_seed(0)
    model, criterion = Plain(True), nn.MSELoss()
    masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.Adam(masters, lr=1e-2)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for x, y in batches():
        model.zero_grad()
        criterion(model(x), y).backward()
        for p, master in zip(model.parameters(), masters, strict=True):
            master.grad = p.grad.clone()
        optimizer.step()
        with torch.no_grad():
            for p, master in zip(model.parameters(), masters, strict=True):
                p.copy_(master if back else p)
    assert causes(watch)[:1] == ([] if back else ["not-in-optimizer"])


class Uphill(torch.optim.SGD):
    """Somebody's own, with the wrong sign."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p += group["lr"] * p.grad


def test_an_optimizer_that_goes_up():
    torch.manual_seed(0)
    model, criterion = Plain(True), nn.MSELoss()
    optimizer = Uphill(model.parameters(), lr=1e-3)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for x, y in batches():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    assert causes(watch)[0] == "sign-flipped"


@pytest.mark.parametrize("negated", [False, True])
def test_what_targets_mean_is_known_of_known_losses_only(negated):
    """A contrastive loss wants a small distance where the target is 1; a cross-entropy by hand is one all the same."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    watch = sf.watch(model, optimizer, quiet=True)
    for x, _ in batches():
        optimizer.zero_grad()
        if negated:
            out, y = model(x), x[:, :3].argmax(1)
            loss = out.log_softmax(1)[torch.arange(len(y)), y].mean()
        else:
            out, y = model(x).norm(dim=1), (x[:, 0] > 0).float()
            loss = (y * out**2 + (1 - y) * (2 - out).clamp(min=0) ** 2).mean()
        watch.observe(loss=loss, outputs=out, targets=y, inputs=x)
        loss.backward()
        optimizer.step()
    assert ("sign-flipped" in causes(watch)) == negated


def test_a_module_that_is_told_to_learn_by_an_attribute():
    torch.manual_seed(0)
    model, criterion = Plain(True), nn.MSELoss()
    for p in model.layers.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch = sf.watch(model, optimizer, loss=criterion, quiet=True)
    for step, (x, y) in enumerate(batches()):
        if step == 20:
            for layer in model.layers:
                layer.requires_grad = True
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    assert causes(watch) == ["frozen-in-optimizer"]
