"""The exact checks: each fault is named, and sound set-ups that look like it are not."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surefoot as sf
from surefoot.diagnose import checks
from surefoot.diagnose.checks.found import some
from surefoot.diagnose.facts import claim_of
from surefoot.diagnose.finding import Finding
from surefoot.train.dry_run import dry_run

N = 64


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


X = draw(N, 6)
CLASSES = X[:, :3].argmax(1)
BINARY = (X[:, 0] > 0).float()
MULTI = (X[:, :3] > 0).float()
VALUE = X.sum(1, keepdim=True) / 3
TOKENS = torch.randint(0, 11, (N, 5), generator=torch.Generator().manual_seed(2))


def mlp(out: int, *end: nn.Module, start: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(*([start] if start else []), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, out), *end)


class Flat(nn.Module):
    """[N, 1] as [N]."""

    def forward(self, x):
        return x.squeeze(1)


class Tokens(nn.Module):
    def __init__(self, *end):
        super().__init__()
        self.embedding, self.head, self.end = nn.Embedding(11, 8), nn.Linear(8, 11), nn.Sequential(*end)

    def forward(self, x):
        return self.end(self.head(self.embedding(x))).transpose(1, 2)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x).detach())


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.used(x)


class Capped(nn.Module):
    """A soft cap of the logits, as Gemma has it: no activation that does not belong."""

    def forward(self, x):
        return 30 * torch.tanh(x / 30)


def frozen_body() -> nn.Module:
    model = mlp(3)
    model[0].requires_grad_(False)
    return model


def with_nan(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.view(-1)[0] = float("nan")
    return x


def own(outputs, targets):
    return (outputs - targets).square().mean()


CE, BCE, MSE = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(), nn.MSELoss()
SOUND = {  # model, loss, inputs, targets
    "classification": (lambda: mlp(3), CE, X, CLASSES),
    "classification by a function": (lambda: mlp(3), F.cross_entropy, X, CLASSES),
    "label smoothing": (lambda: mlp(3), nn.CrossEntropyLoss(label_smoothing=0.1), X, CLASSES),
    "class weights": (lambda: mlp(3), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), X, CLASSES),
    "soft labels": (lambda: mlp(3), CE, X, torch.softmax(X[:, :3], 1)),
    "one-hot labels": (lambda: mlp(3), CE, X, F.one_hot(CLASSES, 3).float()),
    "log-softmax and NLL": (lambda: mlp(3, nn.LogSoftmax(1)), nn.NLLLoss(), X, CLASSES),
    "log-softmax before cross-entropy": (lambda: mlp(3, nn.LogSoftmax(1)), CE, X, CLASSES),
    "capped logits": (lambda: mlp(3, Capped()), CE, X, CLASSES),
    "logits of one sign": (lambda: mlp(3, nn.LayerNorm(3)), CE, X, CLASSES),
    "ignored labels": (lambda: mlp(3), CE, X, torch.where(X[:, 1] > 0, CLASSES, -100)),
    "other ignored labels": (
        lambda: mlp(3),
        nn.CrossEntropyLoss(ignore_index=9),
        X,
        torch.where(X[:, 1] > 0, CLASSES, 9),
    ),
    "a class that does not come": (lambda: mlp(9), CE, X, CLASSES),
    "binary": (lambda: mlp(1, Flat()), BCE, X, BINARY),
    "binary by two classes": (lambda: mlp(2), CE, X, BINARY.long()),
    "binary with sigmoid and BCE": (lambda: mlp(1, nn.Sigmoid(), Flat()), nn.BCELoss(), X, BINARY),
    "binary soft": (lambda: mlp(1, Flat()), BCE, X, 0.1 + 0.8 * BINARY),
    "multi-label": (lambda: mlp(3), BCE, X, MULTI),
    "regression": (lambda: mlp(1), MSE, X, VALUE),
    "regression, flat": (lambda: mlp(1, Flat()), MSE, X, VALUE[:, 0]),
    "regression of counts": (lambda: mlp(1), nn.HuberLoss(), X, VALUE.round()),
    "regression in [0, 1] by sigmoid": (lambda: mlp(1, nn.Sigmoid()), MSE, X, torch.sigmoid(VALUE)),
    "regression with few beyond": (lambda: mlp(1, nn.Tanh()), nn.L1Loss(), X, VALUE.clamp(-1, 1)),
    "positive by softplus": (lambda: mlp(1, nn.Softplus()), nn.SmoothL1Loss(), X, VALUE.abs()),
    "Poisson": (lambda: mlp(1), nn.PoissonNLLLoss(), X, VALUE.abs().round()),
    "autoencoder": (lambda: nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 6)), MSE, X, X),
    "autoencoder of bits": (lambda: mlp(6, nn.Sigmoid()), MSE, (X > 0).float(), (X > 0).float()),
    "language model": (Tokens, CE, TOKENS, TOKENS.roll(-1, 1)),
    "frozen body": (frozen_body, CE, X, CLASSES),
    "raw inputs, normalized first": (lambda: mlp(3, start=nn.BatchNorm1d(6)), CE, 300 * X + 1000, CLASSES),
    "some large features": (lambda: mlp(3), CE, X * torch.tensor([1, 1, 1, 9, 1, 1.0]), CLASSES),
    "an own loss": (lambda: mlp(1), own, X, VALUE),
    "a loss that counts": (lambda: mlp(1), lambda o, t: ((o - t).square().sum(), len(t)), X, VALUE),
    "zero inputs": (lambda: mlp(1), MSE, torch.zeros(N, 6), VALUE),
}
FAULTY = {
    "softmax before cross-entropy": (lambda: mlp(3, nn.Softmax(1)), CE, X, CLASSES, "output-activation"),
    "softmax by a function": (lambda: mlp(3, nn.Softmax(1)), F.cross_entropy, X, CLASSES, "output-activation"),
    "softmax in a language model": (lambda: Tokens(nn.Softmax(-1)), CE, TOKENS, TOKENS, "output-activation"),
    "sigmoid before cross-entropy": (lambda: mlp(3, nn.Sigmoid()), CE, X, CLASSES, "output-activation"),
    "ReLU before cross-entropy": (lambda: mlp(3, nn.ReLU()), CE, X, CLASSES, "output-activation"),
    "tanh before cross-entropy": (lambda: mlp(3, nn.Tanh()), CE, X, CLASSES, "output-activation"),
    "sigmoid before BCE with logits": (lambda: mlp(1, nn.Sigmoid(), Flat()), BCE, X, BINARY, "output-activation"),
    "softmax before BCE with logits": (lambda: mlp(3, nn.Softmax(1)), BCE, X, MULTI, "output-activation"),
    "ReLU before BCE with logits": (lambda: mlp(1, nn.ReLU(), Flat()), BCE, X, BINARY, "output-activation"),
    "one output": (lambda: mlp(1), CE, X, torch.zeros(N).long(), "output-activation"),
    "softmax over one unit": (lambda: mlp(1, nn.Softmax(1)), CE, X, torch.zeros(N).long(), "output-activation"),
    "logits before NLL": (lambda: mlp(3), nn.NLLLoss(), X, CLASSES, "output-activation"),
    "softmax before NLL": (lambda: mlp(3, nn.Softmax(1)), nn.NLLLoss(), X, CLASSES, "output-activation"),
    "log-softmax over the batch": (lambda: mlp(3, nn.LogSoftmax(0)), nn.NLLLoss(), X, CLASSES, "output-activation"),
    "multi-label by cross-entropy": (lambda: mlp(3), CE, X, MULTI, "loss-mismatch"),
    "labels of -1 and 1": (lambda: mlp(1, Flat()), BCE, X, 2 * BINARY - 1, "loss-mismatch"),
    "labels of 0 and 255": (lambda: mlp(1, Flat()), BCE, X, 255 * BINARY, "loss-mismatch"),
    "one-hot by squared error": (lambda: mlp(3), MSE, X, F.one_hot(CLASSES, 3).float(), "loss-mismatch"),
    "one-hot by absolute error": (lambda: mlp(3), nn.L1Loss(), X, F.one_hot(CLASSES, 3).float(), "loss-mismatch"),
    "[N, 1] against [N]": (lambda: mlp(1), MSE, X, VALUE[:, 0], "shape-broadcast"),
    "[N] against [N, 1]": (lambda: mlp(1, Flat()), nn.L1Loss(), X, VALUE, "shape-broadcast"),
    "sigmoid for any value": (lambda: mlp(1, nn.Sigmoid()), MSE, X, VALUE, "output-range"),
    "tanh for any value": (lambda: mlp(1, nn.Tanh()), MSE, X, 3 * VALUE, "output-range"),
    "ReLU for negative values": (lambda: mlp(1, nn.ReLU()), nn.HuberLoss(), X, VALUE, "output-range"),
    "softplus for negative values": (lambda: mlp(1, nn.Softplus()), F.mse_loss, X, VALUE, "output-range"),
    "sigmoid, squeezed": (lambda: mlp(1, nn.Sigmoid(), Flat()), MSE, X, VALUE[:, 0], "output-range"),
    "pixels of 0 to 255": (lambda: mlp(3), CE, 127 + 60 * X, CLASSES, "input-unscaled"),
    "one feature in thousands": (
        lambda: mlp(3), CE, X * torch.tensor([1, 1, 1, 4000, 1, 1.0]), CLASSES, "input-unscaled",
    ),
    "tiny inputs": (lambda: mlp(3), CE, 1e-4 * X, CLASSES, "input-unscaled"),
    "large images": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 4, 3)),
        CE, 128 + 40 * draw(N, 3, 4, 4), CLASSES, "input-unscaled",
    ),
    "prices": (lambda: mlp(1), MSE, X, 200_000 + 50_000 * VALUE, "target-unscaled"),
    "years": (lambda: mlp(1), MSE, X, 2000 + 10 * VALUE, "target-unscaled"),
    "tiny targets": (lambda: mlp(1), MSE, X, 1e-4 * VALUE, "target-unscaled"),
    "one class only": (lambda: mlp(3), CE, X, torch.ones(N).long(), "labels-constant"),
    "constant values": (lambda: mlp(1), MSE, X, torch.full((N, 1), 0.5), "labels-constant"),
    "NaN in the inputs": (lambda: mlp(3), CE, with_nan(X), CLASSES, "non-finite-input"),
    "NaN in the targets": (lambda: mlp(1), MSE, X, with_nan(VALUE), "non-finite-input"),
    "infinity in the inputs": (lambda: mlp(3), CE, X / torch.where(X[0, 0] == X, 0, 1), CLASSES, "non-finite-input"),
    "detached": (Detached, CE, X, CLASSES, "no-gradient"),
    "unused": (Unused, CE, X, CLASSES, "no-gradient"),
    "a summed loss": (lambda: mlp(3), nn.CrossEntropyLoss(reduction="sum"), X, CLASSES, "loss-sum"),
    "a summed loss of one's own": (lambda: mlp(1), lambda o, t: (o - t).square().sum(), X, VALUE, "loss-sum"),
}  # fmt: skip


CHINESE = re.compile(r"[\u4e00-\u9fff]")


def findings(model, loss, inputs, targets):
    task = sf.Task(model=model, loss=loss, train=(inputs, targets), name="case")
    return dry_run(task, sf.Recipe(lr=1e-3, batch_size=N)).findings


def assert_in_both_languages(found: checks.Found) -> None:
    en, zh = found.text("en"), found.text("zh")
    assert not set("{}") & set(en + zh)
    assert CHINESE.search(zh)
    assert not CHINESE.search(en)
    assert not {each for each in found.where if CHINESE.search(each) or re.search(r"\b(the|at|of)\b|^$", each)}
    words = [value for value in found.evidence.values() if isinstance(value, str)]
    assert all(word.isidentifier() for word in words)  # of torch, and so the same in all languages
    lines = Finding("silent", found.cause, "warning", 0, found.where, claim_of(found, 0).evidence).text("zh")
    evidence = [line for line in lines.splitlines() if line.startswith("  证据")]
    for word in words:
        evidence = [line.replace(word, "") for line in evidence]
    assert not re.search(r"[A-Za-z]{3,}", "".join(evidence).replace("maximize", ""))


@pytest.mark.parametrize("case", SOUND)
def test_sound_trainings_are_not_blamed(case):
    assert findings(*SOUND[case]) == []


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("case", FAULTY)
def test_faults_are_named(case):
    *parts, cause = FAULTY[case]
    found = findings(*parts)
    assert cause in [each.cause for each in found]
    for each in found:
        assert_in_both_languages(each)


def test_labels_that_the_outputs_do_not_have():
    outputs, targets = draw(N, 3), torch.randint(1, 4, (N,))
    targets[0] = 3
    (found,) = checks.labels(outputs, targets, CE)
    assert (found.cause, found.evidence) == ("loss-mismatch", {"target_low": 1, "target_high": 3, "outputs": 3})
    assert "number the classes from 0" in found.text("en")
    assert "从 0 开始编号" in found.text("zh")
    (found,) = checks.labels(outputs, 9 * CLASSES, CE)
    assert "an output for each class" in found.text("en")
    assert_in_both_languages(found)


@pytest.mark.parametrize("loss", [MSE, nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss()])
def test_one_hot_targets_are_told_from_bits(loss):
    (found,) = checks.labels(draw(N, 3), F.one_hot(CLASSES, 3).float(), loss)
    assert "use CrossEntropyLoss on the class numbers" in found.text("en")
    assert "以类别编号为目标" in found.text("zh")


@pytest.mark.parametrize(("outputs", "targets"), [(draw(N, 3), MULTI), (draw(N), BINARY)])
def test_bits_by_absolute_error(outputs, targets):
    (found,) = checks.labels(outputs, targets, nn.L1Loss())
    assert "use BCEWithLogitsLoss" in found.text("en")
    assert_in_both_languages(found)
    assert checks.labels(outputs, targets, MSE) == []


def test_parameters_that_the_optimizer_does_not_hold():
    model = mlp(3)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    (found,) = checks.left_out(model, optimizer)
    assert (found.cause, found.where) == ("not-in-optimizer", ("2.weight", "2.bias"))
    stale = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    (found,) = checks.left_out(model, stale)
    assert "it holds 4 that are not the model's" in found.text("en")
    assert_in_both_languages(found)
    assert checks.left_out(model, torch.optim.SGD(model.parameters(), lr=0.1)) == []
    assert checks.left_out(frozen_body(), sf.optim.SGD(list(mlp(3).parameters()), lr=0.1))
    body = frozen_body()
    assert checks.left_out(body, torch.optim.SGD([p for p in body.parameters() if p.requires_grad], lr=0.1)) == []


def test_an_optimizer_of_frozen_parameters():
    model = frozen_body()
    (found,) = checks.frozen(model, torch.optim.SGD(model[0].parameters(), lr=0.1))
    assert found.cause == "frozen-in-optimizer"
    assert_in_both_languages(found)
    assert checks.frozen(model, torch.optim.SGD(model.parameters(), lr=0.1)) == []  # it holds the others too
    assert checks.frozen(mlp(3), torch.optim.SGD(mlp(3).parameters(), lr=0.1)) == []


def test_a_rate_of_nothing():
    model = mlp(3)
    (found,) = checks.without_rate(torch.optim.SGD(model.parameters(), lr=0.0))
    assert found.cause == "lr-zero"
    assert_in_both_languages(found)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sf.schedule.drive(optimizer, lr="linear(0, 1, 5) >> constant", total=20)
    assert optimizer.param_groups[0]["lr"] == 0
    assert checks.without_rate(optimizer) == []  # the schedule raises it


def test_uphill():
    optimizer = torch.optim.SGD(mlp(3).parameters(), lr=0.1, maximize=True)
    (found,) = checks.uphill(optimizer, CE)
    assert found.cause == "sign-flipped"
    assert found.text("en").startswith("maximize=True goes up the cross-entropy, ")
    assert found.text("zh").startswith("maximize=True 使损失（交叉熵）上升，")
    assert checks.uphill(optimizer, own) == []  # perhaps it is to be large
    assert checks.uphill(torch.optim.SGD(mlp(3).parameters(), lr=0.1), CE) == []


def test_checks_change_nothing():
    model = mlp(3, start=nn.BatchNorm1d(6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = model(X)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for found in (
        checks.left_out(model, optimizer), checks.frozen(model, optimizer), checks.without_rate(optimizer),
        checks.uphill(optimizer, CE), checks.non_finite((X, CLASSES)), checks.constant_labels([CLASSES]),
        checks.unscaled_inputs(X, model), checks.unscaled_targets(VALUE, MSE), checks.activation(outputs, CE),
        checks.labels(outputs, CLASSES, CE), checks.reach(outputs, CLASSES, CE), checks.shapes(outputs, CLASSES, CE),
        checks.summed(outputs, CLASSES, CE),
    ):  # fmt: skip
        assert found == []
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_small_batches_say_nothing_of_scale_or_labels():
    assert checks.constant_labels([torch.ones(4)]) == []
    assert checks.unscaled_inputs(1000 * X[:4]) == []
    assert checks.unscaled_targets(1000 * VALUE[:4], MSE) == []


def test_where_inputs_are_unscaled():
    for inputs, where in ((1000 * X, "inputs"), ((X, 1000 * X), "inputs 1"), ({"x": 1000 * X}, "inputs x")):
        (found,) = checks.unscaled_inputs(inputs)
        assert found.where == (where,)
        assert found.evidence["feature_size_high"] > found.evidence["feature_size_low"]
        assert_in_both_languages(found)


def test_where_data_are_not_finite():
    bad = with_nan(X)
    (found,) = checks.non_finite(bad)
    assert found.where == ("batch",)
    assert found.text("en").startswith("the batch holds NaN or infinity: ")
    assert found.text("zh").startswith("批次含有 NaN 或无穷大：")
    (found,) = checks.non_finite({"x": bad, "more": [X, bad]}, validation=True)
    assert found.where == ("val batch x", "val batch more 1")
    assert found.evidence == {"non_finite": 2}
    places = "the validation's batch at x, the validation's batch at more 1"
    assert found.text("en").startswith(f"{places} hold NaN or infinity: ")
    assert found.text("zh").startswith("验证批次（位置 x）、验证批次（位置 more 1）都含有 NaN 或无穷大：")


def test_a_list_of_names_ends_somewhere():
    names = ["a", "b", "c", "d", "e", "f"]
    assert (some(names)("en"), some(names)("zh")) == ("a, b, c, d and 2 more", "a、b、c、d 及另外 2 项")
    assert (some(names[:4])("en"), some(names[:4])("zh")) == ("a, b, c, d", "a、b、c、d")


def test_a_watch_repeats_what_a_check_found_in_both_languages():
    model = mlp(3, nn.Softmax(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sf.watch(model, optimizer, loss=CE, quiet=True) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            CE(model(X), CLASSES).backward()
            optimizer.step()
    (found,) = checks.activation(model(X), CE)
    finding = next(each for each in watch.findings if each.cause == found.cause)
    for language in ("en", "zh"):
        assert finding.to_dict()["details"][language] == found.text(language)
        assert found.text(language) in finding.text(language)
    assert Finding.from_dict(finding.to_dict()) == finding
