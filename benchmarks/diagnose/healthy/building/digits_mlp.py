"""Digits, a multi-layer perceptron, classification."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.diagnose.healthy import data
from benchmarks.diagnose.healthy.blocks import mlp
from benchmarks.diagnose.healthy.common import batches, entropy, loss_of, warmed_cosine
from benchmarks.diagnose.healthy.registry import Outcome, healthy

sound = partial(healthy, family="digits-mlp", part="building")


@sound("warmup-then-cosine")
def warmup_then_cosine(watch, seed):
    """The rate starts at a thirtieth and ends at zero."""
    torch.manual_seed(seed)
    x, y, vx, vy = data.digits()
    model, criterion = mlp(64, 128, 10), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    w = watch(model, optimizer, loss=criterion, steps=440)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(30, 440))
    for _ in range(20):
        model.train()
        for inputs, labels in batches(x, y, size=64):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            w.validated(loss=criterion(model(vx), vy).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("dropout-heavy")
def dropout_heavy(watch, seed):
    """Dropout of 0.5 and 0.8: the loss of training stays far above that of validation; a label in ten is wrong."""
    torch.manual_seed(seed)
    x, y, vx, vy = data.digits()
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(10, y.shape), y)
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.8),
        nn.Linear(256, 10),
    )
    criterion = nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 14)
    for _ in range(14):
        model.train()
        for inputs, labels in batches(x, y, size=64):
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            found = model(vx)
            w.validated(loss=criterion(found, vy), metric=(found.argmax(1) == vy).float().mean())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("label-smoothing")
def label_smoothing(watch, seed):
    """Smoothed labels keep the loss above 0.5 however good the model."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    model, criterion = mlp(64, 128, 64, 10), nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    w = watch(model, optimizer, loss=criterion)
    for inputs, labels in batches(x, y, size=48, epochs=15):
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("batch-of-two")
def batch_of_two(watch, seed):
    """Two rows a batch: the loss of one batch says little about the next."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(10, y.shape), y)
    model, criterion = mlp(64, 32, 10), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=2160)
    for inputs, labels in batches(x, y, size=2, epochs=3):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("full-batch")
def full_batch(watch, seed):
    """All rows in each step: no noise in the loss at all."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    model, criterion = mlp(64, 64, 10, act=nn.Tanh), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    w = watch(model, optimizer, loss=criterion)
    for _ in range(300):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


@sound("noisy-labels-at-their-floor")
def noisy_labels(watch, seed):
    """Three labels in ten are wrong, the model is linear: the loss soon lies still, high above zero."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    y = torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    model, criterion = nn.Linear(64, 10), nn.CrossEntropyLoss()
    first = loss_of(model, criterion, x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [200, 300])
    for inputs, labels in batches(x, y, size=64, epochs=18):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))


class Cooled(nn.Module):
    """A model with its answers divided by a temperature of 3."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) / 3


@sound("distillation")
def distillation(watch, seed):
    """A small student learns a teacher's soft answers: a temperature of 3, a loss that cannot reach zero."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    teacher = mlp(64, 256, 10)
    study = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for inputs, labels in batches(x, y, size=128, epochs=8):
        study.zero_grad()
        F.cross_entropy(teacher(inputs), labels).backward()
        study.step()
    soft = (teacher(x) / 3).softmax(1).detach()
    criterion = nn.CrossEntropyLoss()  # takes probabilities too
    model = mlp(64, 32, 10)
    first = loss_of(Cooled(model), criterion, x, soft)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=None)
    for inputs, answers in batches(x, soft, size=64, epochs=15):
        found = model(inputs) / 3
        loss = criterion(found, answers)
        w.observe(loss=loss, outputs=found, targets=answers, inputs=inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w.close()
    mean = soft.mean(0)
    return Outcome(first, loss_of(Cooled(model), criterion, x, soft), float(-(mean * mean.log()).sum()))


@sound("mixup")
def mixup(watch, seed):
    """Pairs of images and of labels are mixed: the loss of training cannot come near zero."""
    torch.manual_seed(seed)
    x, y, _, _ = data.digits()
    model, criterion = mlp(64, 128, 128, 10), nn.CrossEntropyLoss()
    shares = torch.distributions.Beta(0.4, 0.4)

    def mixed(inputs, labels):
        share, other = shares.sample((len(inputs), 1)), torch.randperm(len(inputs))
        return share * inputs + (1 - share) * inputs[other], share * labels + (1 - share) * labels[other]

    labelled = F.one_hot(y, 10).float()
    some = mixed(x, labelled)
    first = loss_of(model, criterion, *some)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    w = watch(model, optimizer, loss=criterion)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for inputs, labels in batches(x, labelled, size=48, epochs=20):
        inputs, labels = mixed(inputs, labels)
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    w.close()
    return Outcome(first, loss_of(model, criterion, *some), entropy(y))


@sound("weight-average")
def weight_average(watch, seed):
    """A moving average of the weights is what is validated; the model that trains is not touched by it."""
    torch.manual_seed(seed)
    x, y, vx, vy = data.digits()
    model, criterion = mlp(64, 96, 10), nn.CrossEntropyLoss(label_smoothing=0.1)
    first = loss_of(model, criterion, x, y)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=criterion)
    for step, (inputs, labels) in enumerate(batches(x, y, size=32, epochs=10)):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        if step % 50 == 49:
            w.validated(loss=criterion(average(vx), vy).item())
    w.close()
    return Outcome(first, loss_of(model, criterion, x, y), entropy(y))
