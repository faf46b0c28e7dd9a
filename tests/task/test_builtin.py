"""The built-in tasks: their data, their models, and that they learn."""

from __future__ import annotations

import pytest
import torch

import surefoot as sf
from surefoot.task.builtin import BUILTIN, digits, quadratic, text
from surefoot.task.load import load


@pytest.mark.parametrize("name", BUILTIN)
def test_a_few_steps_lower_the_loss(name):
    task = load(name)
    model = task.model()
    optimizer = task.recipe.create_optimizer(model)
    batch = tuple(t[:32] for t in task.train) if isinstance(task.train, tuple) else task.train[:32]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = task.outcome(model, batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_demo_reads_digits(tmp_path):
    """The README's first command: 98 % of the validation digits or more."""
    run = sf.train(load("digits-cnn"), dir=tmp_path / "run", quiet=True)
    assert run.best.values["val/accuracy"] >= 0.98


def test_digits_are_split_by_class():
    (x, y), (x_val, y_val) = digits.data()
    assert (len(x), len(x_val)) == (1437, 360)
    assert x.shape[1:] == (1, 8, 8)
    assert (x.min(), x.max()) == (-1, 1)
    share = torch.bincount(y) / len(y) - torch.bincount(y_val) / len(y_val)
    assert share.abs().max() < 0.005
    seen = {image.numpy().tobytes() for image in x}
    assert not any(image.numpy().tobytes() in seen for image in x_val)


def test_text_is_split_by_file():
    assert not set(text.TRAIN) & set(text.VALIDATION)
    train, val = text.texts()
    assert len(train) > 500_000
    assert len(val) > 50_000
    x, y = text.data()[0]
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert x.max() < text.VOCABULARY
    decoded = "".join(text.ALPHABET[i] if i < len(text.ALPHABET) else "?" for i in x[:5].flatten().tolist())
    assert decoded == train[: 5 * text.CONTEXT]


def test_the_bigram_model_is_one():
    """Against counting by hand, on the pairs that follow one character."""
    train, val = map(text.encode, text.texts())
    e = text.ALPHABET.index("e")
    after = train[1:][train[:-1] == e]
    n = text.ALPHABET.index("n")
    share = (int((after == n).sum()) + 1) / (len(after) + text.VOCABULARY)
    assert 0 < share < 1
    loss = text.bigram_loss()
    assert 2 < loss < 3
    unigram = torch.bincount(train, minlength=text.VOCABULARY).double() + 1
    assert loss < -float((unigram / unigram.sum()).log()[val].mean())


def test_gpt_sees_only_the_past():
    model = text.GPT().eval()
    x = torch.randint(text.VOCABULARY, (1, text.CONTEXT))
    changed = x.clone()
    changed[0, 40:] = (changed[0, 40:] + 1) % text.VOCABULARY
    assert torch.allclose(model(x)[0, :40], model(changed)[0, :40], atol=1e-6)
    assert not torch.allclose(model(x)[0, 40:], model(changed)[0, 40:], atol=1e-3)


def test_the_quadratic_is_deepobs():
    eigenvalues = torch.linalg.eigvalsh(quadratic.hessian().double())
    assert ((eigenvalues[:90] > 0) & (eigenvalues[:90] < 1)).all()
    assert ((eigenvalues[90:] > 30) & (eigenvalues[90:] < 60)).all()
    x = quadratic.draws(42)
    assert x.std() == pytest.approx(0.6, rel=0.01)
    model = quadratic.Quadratic()
    assert quadratic.mean_loss(model, x).item() == pytest.approx(quadratic.loss_at(torch.ones(100), x), rel=1e-5)
    best = quadratic.floor(x)
    assert all(quadratic.loss_at(x.mean(0) + 0.01 * torch.randn(100), x) > best for _ in range(20))
