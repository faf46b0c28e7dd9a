"""One batch is fitted, or it is said why not."""

from __future__ import annotations

import pytest
import torch
from test_dry_run import BROKEN
from torch import nn
from torch.nn import functional as F
from toys import RECIPE, noisy, toy

import surefoot as sf
from surefoot.cli import main
from surefoot.train.overfit import overfit

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
CLASSES = (X.sum(1) > 0).long()
SOFT = torch.softmax(X[:, :2], 1)


def wide(*end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2), *end)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": noisy},
        {"loss": F.mse_loss, "metric": None, "train": (X, X[:, :2]), "val": None},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"model": wide, "train": (X, SOFT), "val": None, "metric": None},
        {"model": wide, "loss": nn.BCEWithLogitsLoss(), "train": (X, SOFT), "val": None, "metric": None},
        {"loss": lambda o, t: 3 + F.cross_entropy(o, t) ** 2, "metric": None},
    ],
    ids=["classes", "dropout", "values", "smoothed", "soft", "soft binary", "unknown floor"],
)
def test_what_can_learn_fits_a_batch(changes):
    tried = overfit(toy(**changes), RECIPE.replace(clip_norm=None))
    assert tried.fits, tried
    assert str(tried).startswith("fits: the loss of one batch goes from ")


def test_a_rate_that_is_far_off_is_found_out():
    for lr in (1e-6, 1e5):
        tried = overfit(toy(), RECIPE.replace(lr=lr, optimizer="sgd", clip_norm=None), steps=400)
        assert tried.lr != lr
    assert overfit(toy(), RECIPE.replace(lr=3e-4)).lr == pytest.approx(3e-3)


FAULTS = {
    "softmax": ({"model": lambda: wide(nn.Softmax(1))}, "output-activation"),
    "labels": ({"loss": nn.BCEWithLogitsLoss(), "train": (X, 5 * SOFT), "metric": None, "val": None}, "loss-mismatch"),
    "range": ({"model": lambda: wide(nn.Sigmoid()), "loss": F.mse_loss, "train": (X, 3 * X[:, :2])}, "output-range"),
    "nan": ({"train": (torch.full((32, 4), float("nan")), CLASSES)}, "non-finite-input"),
    "detached": ({"model": lambda: Cut()}, "no-gradient"),
    "contradiction": ({"train": (torch.zeros(32, 4), torch.arange(32) % 2)}, "equal inputs have different targets"),
    "blind": ({"model": lambda: nn.Sequential(Blind(), nn.Linear(4, 2))}, "sees its inputs at all"),
    "too small": (
        {"model": lambda: nn.Linear(4, 1), "loss": F.mse_loss, "train": (X, torch.sin(9 * X[:, :1]))}, "large enough",
    ),
}  # fmt: skip


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 1), nn.Linear(1, 2)

    def forward(self, x):
        return self.head(self.body(0 * x).detach())


class Blind(nn.Module):
    def forward(self, x):
        return 0 * x


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_learn_is_told_why(fault):
    changes, words = FAULTS[fault]
    task = toy(**{"val": None, "metric": None, **changes})
    tried = overfit(task, RECIPE.replace(batch_size=32), steps=60)
    assert words in str(tried), tried
    if fault != "softmax":  # which learns, only slowly
        assert not tried.fits
        assert str(tried).startswith("does not fit: ")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(BROKEN)
    assert main(["overfit", "digits-mlp", "--try-steps", "100"]) == 0
    assert capsys.readouterr().out.startswith("fits: ")
    assert main(["overfit", "mine.py:task", "--try-steps", "10"]) == 1
    assert "softmax stands before" in capsys.readouterr().out


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overfit(toy(), RECIPE)
    assert not list(tmp_path.iterdir())
    assert sf.Recipe().weight_decay == RECIPE.weight_decay
