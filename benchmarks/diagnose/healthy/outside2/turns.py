"""Two optimizers, targets that move, several passes in a step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of
from benchmarks.diagnose.healthy.outside2.rows import generated
from benchmarks.diagnose.healthy.registry import Outcome, Watch, healthy


@healthy("2-actor-and-critic", family="2-rewards", part="outside2")
def actor_critic(watch: Watch, seed: int) -> Outcome:
    """A policy's loss wanders about zero while rewards rise; the critic learns them beside it, by its own optimizer."""
    torch.manual_seed(seed)
    truth = torch.randn(6, 4)
    x2 = torch.randn(2000, 6)

    def rewards(states: Tensor) -> Tensor:
        return (states @ truth).softmax(1) * 2 - 0.5

    actor, critic = mlp(6, 32, 4, act=nn.Tanh), mlp(6, 32, 1, act=nn.Tanh)
    nn.init.zeros_(actor[-1].weight)
    both = nn.ModuleDict({"actor": actor, "critic": critic})

    def held() -> float:
        with torch.no_grad():
            return 2 - (actor(x2).softmax(1) * rewards(x2)).sum(1).mean().item()

    policy = torch.optim.Adam(actor.parameters(), lr=1e-2)
    value = torch.optim.Adam(critic.parameters(), lr=1e-2)
    first = held()
    w = watch(both, [policy, value])
    for _ in range(300):
        states = torch.randn(64, 6)
        choice = torch.distributions.Categorical(logits=actor(states))
        action = choice.sample()
        reward = rewards(states).gather(1, action[:, None])[:, 0] + 0.3 * torch.randn(64)
        baseline = critic(states)[:, 0]
        better = (reward - baseline).detach()
        gain = choice.log_prob(action) * better
        loss = -gain.mean() - 0.01 * choice.entropy().mean() + 0.5 * (baseline - reward).square().mean()
        w.observe(loss=loss, inputs=states)
        policy.zero_grad()
        value.zero_grad()
        loss.backward()
        policy.step()
        value.step()
    w.close()
    flat = 2 - rewards(x2).mean(0).max().item()
    return Outcome(first, held(), flat)


@healthy("2-values-chase-a-slow-copy", family="2-rewards", part="outside2")
def chased(watch: Watch, seed: int) -> Outcome:
    """Targets come from a slow copy of the net, all near zero at first: the loss rises before it settles."""
    torch.manual_seed(seed)
    states = 9
    reward = torch.zeros(states)
    reward[-1], reward[0] = 3.0, -1.0
    chance = torch.zeros(states, states)
    for s in range(states):
        chance[s, min(s + 1, states - 1)] += 0.6
        chance[s, max(s - 1, 0)] += 0.4
    value = torch.linalg.solve(torch.eye(states) - 0.8 * chance, reward)
    model, criterion = mlp(states, 32, 1, act=nn.Tanh), nn.MSELoss()
    nn.init.zeros_(model[-1].weight)
    slow = copy.deepcopy(model).requires_grad_(False)
    every = torch.eye(states)

    def held() -> float:
        with torch.no_grad():
            return float((model(every)[:, 0] - value).square().mean())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = held()
    watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=500)
    for _ in range(500):
        here = torch.randint(states, (32,))
        there = torch.multinomial(chance[here], 1)[:, 0]
        with torch.no_grad():
            targets = (reward[here] + 0.2 * torch.randn(32))[:, None] + 0.8 * slow(every[there])
        loss = criterion(model(every[here]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for old, new in zip(slow.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.05)
    return Outcome(first, held(), float(value.var(unbiased=False)))


@healthy("2-two-passes-must-agree", family="2-several-passes", part="outside2")
def agree(watch: Watch, seed: int) -> Outcome:
    """Each batch passes twice under other dropout; both are judged, and their disagreement too."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated(
        "classification", seed, n_samples=4000, n_features=16, n_informative=8, n_classes=4, flip_y=0.15, class_sep=1.3
    )
    model, criterion = mlp(16, 64, 64, 4, drop=0.2), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    first = loss_of(model, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(6):
        for inputs, targets in batches(x, y, size=50):
            one, two = model(inputs), model(inputs)
            left, right = one.log_softmax(1), two.log_softmax(1)
            apart = F.kl_div(left, right, log_target=True, reduction="batchmean")
            apart = apart + F.kl_div(right, left, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            (criterion(one, targets) / 2 + criterion(two, targets) / 2 + 0.25 * apart).backward()
            optimizer.step()
        w.validated(loss=loss_of(model, criterion, x2, y2))
    w.close()
    return Outcome(first, loss_of(model, criterion, x2, y2), entropy(y2))


@healthy("2-odd-and-even-steps", family="2-several-passes", part="outside2")
def odd_and_even(watch: Watch, seed: int) -> Outcome:
    """Left factors move on even steps and right ones on odd, by an optimizer each: half of the weights always rest."""
    torch.manual_seed(seed)
    whole = torch.randn(60, 4) @ torch.randn(4, 50) / 2 + 0.7 * torch.randn(60, 50)
    seen = torch.rand(60, 50) < 0.8
    left, right = nn.Linear(4, 60, bias=False), nn.Linear(4, 50, bias=False)
    nn.init.normal_(left.weight, std=0.5)
    nn.init.normal_(right.weight, std=0.5)
    both, criterion = nn.ModuleList([left, right]), nn.MSELoss()

    def held() -> float:
        with torch.no_grad():
            return criterion((left.weight @ right.weight.T)[~seen], whole[~seen]).item()

    turns = [torch.optim.SGD(part.parameters(), lr=8.0, momentum=0.8) for part in both]
    first = held()
    watch(both, turns, loss=criterion)
    for step in range(300):
        moving, resting = both[step % 2], both[1 - step % 2]
        moving.requires_grad_(True)
        resting.requires_grad_(False)
        turns[step % 2].zero_grad()
        criterion((left.weight @ right.weight.T)[seen], whole[seen]).backward()
        turns[step % 2].step()
    both.requires_grad_(True)
    return Outcome(first, held(), float(whole[~seen].var()))


@healthy("2-few-labels-slow-teacher", family="2-several-passes", part="outside2")
def teacher(watch: Watch, seed: int) -> Outcome:
    """Twenty labelled rows in a batch and a hundred without; a slow copy teaches these, with a weight that ramps up."""
    torch.manual_seed(seed)
    x, y, x2, y2 = generated("moons", seed, n_samples=3600, noise=0.3)
    told, rest = (x[:400], y[:400]), x[400:]
    model, criterion = mlp(2, 32, 32, 2, drop=0.1), nn.CrossEntropyLoss()
    slow = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    first = loss_of(slow, criterion, x2, y2)
    w = watch(model, optimizer, loss=criterion)
    for epoch in range(15):
        for inputs, targets in batches(*told, size=20):
            more = rest[torch.randint(len(rest), (100,))]
            judged = criterion(model(inputs), targets)
            with torch.no_grad():
                lesson = slow(more).softmax(1)
            taught = (model(more + 0.1 * torch.randn_like(more)).softmax(1) - lesson).square().mean()
            optimizer.zero_grad()
            (judged + 3.0 * min(1.0, epoch / 8) * taught).backward()
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(slow.parameters(), model.parameters(), strict=True):
                    old.lerp_(new, 0.1)
        w.validated(loss=loss_of(slow, criterion, x2, y2))
    w.close()
    return Outcome(first, loss_of(slow, criterion, x2, y2), entropy(y2))
