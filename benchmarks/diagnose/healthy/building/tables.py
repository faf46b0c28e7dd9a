"""Tables of measurements (breast cancer), a small network or none, two classes and counts."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, binary_entropy, loss_of
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="cancer-mlp", part="building")


def cells(noise=0.06, seed=0):
    """Logarithms of the features, standardised; labels, of which a few are turned, so that the loss has a floor."""
    x, y = data.table("breast_cancer")
    turned = torch.rand(len(y), generator=data.drawn(seed)) < noise
    return data.standardised((x + 1e-3).log()), torch.where(turned, 1 - y, y).float()[:, None]


@sound("class-weights")
def class_weights(watch, seed):
    """The rarer class counts more: the loss starts above ln 2."""
    torch.manual_seed(seed)
    x, y = cells()
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))
    model = nn.Linear(30, 1)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=32, epochs=25):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    share = (3 * y.sum() / (3 * y.sum() + (1 - y).sum())).logit().expand_as(y)
    return Outcome(first, loss_of(model, criterion, x, y), criterion(share, y).item())


@sound("one-class-in-ten")
def imbalanced(watch, seed):
    """One row in ten is of the other class, and it is learnt."""
    torch.manual_seed(seed)
    x, y = cells()
    kept = torch.cat([(y[:, 0] == 1).nonzero()[:, 0], (y[:, 0] == 0).nonzero()[:40, 0]])
    x, y = x[kept], y[kept]
    model, criterion = nn.Linear(30, 1), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=32, epochs=20):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("validation-after-each-step")
def validates_often(watch, seed):
    """A validation pass with gradients on, after every step; early stopping ends the training."""
    torch.manual_seed(seed)
    x, y = cells()
    vx, vy, x, y = x[:150], y[:150], x[150:], y[150:]
    model, criterion = nn.Linear(30, 1), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=0.03)
    w = watch(model, optimizer, loss=criterion)
    best, since = float("inf"), 0
    for inputs, labels in batches(x, y, size=64, epochs=40):
        model.train()
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        model.eval()
        with w.validation():
            loss = criterion(model(vx), vy)
        w.validated(loss=loss.item())
        best, since = (loss.item(), 0) if loss.item() < best - 1e-4 else (best, since + 1)
        if since > 40:
            break
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("raw-features-into-batch-norm")
def raw_features(watch, seed):
    """Features from 0.001 to 4000 as they are: the model's first layer is a batch norm, which scales them."""
    torch.manual_seed(seed)
    _, y = cells()
    x = data.table("breast_cancer")[0]
    model, criterion = nn.Sequential(nn.BatchNorm1d(30, affine=False), nn.Linear(30, 1)), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=56, epochs=25):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))


@sound("focal-loss")
def focal(watch, seed):
    """Focal loss: small from the start (0.17), and the gradient fades as rows are learnt."""
    torch.manual_seed(seed)
    x, y = cells()
    model = mlp(30, 8, 1, act=nn.Tanh)

    def loss_on(logits, labels):
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return ((1 - (-each).exp()).square() * each).mean()

    first = loss_of(model, loss_on, x, y)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3, weight_decay=1e-3)
    w = watch(model, optimizer)
    for inputs, labels in batches(x, y, size=32, epochs=16):
        found = model(inputs)
        loss = loss_on(found, labels)
        w.observe(loss=loss, outputs=found, targets=labels, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, loss_on, x, y), loss_on(y.mean().logit().expand_as(y), y).item())


@sound("counts-with-poisson")
def poisson(watch, seed):
    """Counts under the Poisson loss with a log link: the loss is below zero and its floor unknown."""
    torch.manual_seed(seed)
    x, _ = cells()
    rate = (1.0 + 0.5 * x[:, :1] - 0.4 * x[:, 4:5] * (x[:, 1:2] > 0)).clamp(max=4).exp()
    y = torch.poisson(rate, generator=data.drawn(seed))
    model, criterion = nn.Sequential(mlp(30, 16, 1, act=nn.Tanh)), nn.PoissonNLLLoss(log_input=True)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, counts in batches(x, y, size=48, epochs=25):
        optimizer.zero_grad()
        criterion(model(inputs), counts).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), criterion(y.mean().log().expand_as(y), y).item())


@sound("thirty-steps")
def thirty_steps(watch, seed):
    """A training of thirty steps that is enough."""
    torch.manual_seed(seed)
    x, y = cells()
    model, criterion = nn.Linear(30, 1), nn.BCEWithLogitsLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    w = watch(model, optimizer, loss=criterion, steps=30)
    for _ in range(30):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), binary_entropy(y))
