"""Bad input and bad numbers: one clear error, and nothing lost or left behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import RECIPE, nan_after, noisy, toy, weights

import surefoot as sf
from surefoot.train.replay import replay


def test_a_loss_that_is_no_number_is_named_with_its_step(tmp_path):
    with pytest.raises(sf.UserError, match=r"the loss is nan at step 1 \(the first\)"):
        sf.train(toy(loss=nan_after(1)), RECIPE, tmp_path / "first", quiet=True)
    assert not (tmp_path / "first").exists()
    task = toy(loss=nan_after(12), val=None, metric=None)
    with pytest.raises(sf.UserError, match=r"the loss is nan at step 12.*last checkpoint, of step 7"):
        sf.train(task, RECIPE, tmp_path / "later", quiet=True)
    run = sf.Run(tmp_path / "later")
    assert run.summary["status"] == "failed"
    assert all(torch.isfinite(p).all() for p in weights(toy(), run.last))


class Bytes(nn.Identity):
    def get_extra_state(self):
        return b"bytes"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": (torch.zeros(0, 4), torch.zeros(0))}, "the training data are empty"),
        ({"val": (torch.zeros(0, 4), torch.zeros(0))}, "the validation data are empty"),
        ({"model": lambda: nn.Flatten()}, "no trainable parameters"),
        ({"model": lambda: nn.Linear(4, 2).requires_grad_(False)}, "no trainable parameters"),
        ({"model": lambda: 3}, "must return a model"),
        ({"train": [1, 2]}, "not (int, int)"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss must return one number"),
        (
            {"model": lambda: nn.Sequential(nn.Linear(4, 2), Bytes())},
            "cannot save 1._extra_state: a bytes needs pickle",
        ),
        ({"loss": lambda o, t: torch.tensor(1.0)}, "does not require grad"),
        ({"loss": lambda o, t: t.missing}, r"failed at step 1, on the batch (float32 [10, 4], int64 [10]): Attribute"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, words):
    with pytest.raises(sf.UserError) as error:
        sf.train(toy(**changes), RECIPE, tmp_path / "run", quiet=True)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_bad_metric_is_named_and_the_run_may_be_replaced(tmp_path):
    for metric, words in ((lambda o, t: "good", "must return a number"), (lambda o, t: (1,), "must return a number")):
        with pytest.raises(sf.UserError, match=words):
            sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
        assert sf.Run(tmp_path / "run").summary["status"] == "failed"
    assert sf.train(toy(), RECIPE, tmp_path / "run", quiet=True).summary["status"] == "finished"


def test_a_last_batch_of_one_is_named(tmp_path):
    with pytest.raises(sf.UserError, match=r"failed at step 8, on the batch \(float32 \[1, 4\], .*more than 1 value"):
        sf.train(toy(model=noisy), RECIPE.replace(batch_size=9), tmp_path / "run", quiet=True)


def test_the_users_own_folders_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    for dir in (tmp_path / "mine", tmp_path / "deep" / "er" / "run"):
        with pytest.raises(sf.UserError, match="the first"):
            sf.train(toy(loss=nan_after(1)), RECIPE, dir, quiet=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    (tmp_path / "file").write_text("")
    with pytest.raises(sf.UserError, match=r"cannot write to .*: Not a directory"):
        sf.train(toy(), RECIPE, tmp_path / "file" / "run", quiet=True)


def test_a_gradient_that_is_no_number_is_caught_before_it_is_saved(tmp_path):
    """The loss of the epoch's last step is sound, its gradient is not: the weights after it must not be kept."""
    steps = []

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            steps.append(1)
            if len(steps) == 14:
                outputs.register_hook(lambda grad: grad * float("nan"))
        return F.cross_entropy(outputs, targets)

    with pytest.raises(sf.UserError, match=r"the gradient's norm is nan at step 14: .* of step 7, stands"):
        sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
    run = sf.Run(tmp_path / "run")
    assert all(torch.isfinite(p).all() for p in weights(toy(), run.last))
    assert [step for step, _ in run.signal("train/loss")] == list(range(1, 15))  # what led there is on record
    assert "step 14" in run.summary["reason"]


def test_a_validation_that_is_no_number_is_no_best(tmp_path):
    def metric(outputs, targets):
        return float("nan")

    run = sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
    assert run.best is None
    assert math.isnan(run.last.values["val/metric"])
    for path in (run.dir / "summary.json", run.last.path / "manifest.json"):
        assert "NaN" not in path.read_text()
    assert run.summary["last"]["val/metric"] is None


def test_an_error_in_the_first_step_leaves_nothing_behind(tmp_path):
    with pytest.raises(
        sf.UserError, match=r"step 1, on the batch \(float32 \[10, 4\], int64 \[10\]\): .* be multiplied"
    ):
        sf.train(toy(model=lambda: nn.Linear(5, 2)), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_used_directory_is_refused(tmp_path):
    sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = sorted((p, p.stat().st_mtime) for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(sf.UserError, match="already holds a run"):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert sorted((p, p.stat().st_mtime) for p in (tmp_path / "run").rglob("*")) == before


def bad_at(steps, *, once: bool = True):
    """A loss that is NaN the first (or every) time that training comes to these steps."""
    calls, left = [], set(steps)

    def loss(outputs, targets):
        value = F.cross_entropy(outputs, targets)
        if not torch.is_grad_enabled():
            return value
        calls.append(1)
        if len(calls) in left if once else len(calls) >= min(left):
            return value * float("nan")
        return value

    return loss


def test_skipping_leaves_the_step_out_and_says_so(tmp_path, caplog):
    run = sf.train(toy(loss=bad_at({5, 6})), RECIPE.replace(nonfinite="skip"), tmp_path / "run", quiet=True)
    assert "step 5 is left out" in caplog.text
    assert (run.summary["status"], run.summary["ledger"]["skipped"], run.summary["ledger"]["steps"]) == (
        "finished",
        2,
        26,
    )
    assert [step for step, loss in run.signal("train/loss") if math.isnan(loss)] == [5, 6]
    assert all(torch.isfinite(p).all() for p in weights(toy(), run.last))
    assert [event.step for event in run.events("skip")] == [5, 6]


def test_skipping_for_ever_is_an_error(tmp_path):
    task = toy(loss=bad_at({5}, once=False))
    with pytest.raises(sf.UserError, match="100 steps in a row were left out, the last is step 104"):
        sf.train(task, RECIPE.replace(nonfinite="skip", epochs=30), tmp_path / "run", quiet=True)


def test_a_rollback_goes_on_from_the_checkpoint_with_a_lower_rate(tmp_path, caplog):
    task, recipe = toy(loss=bad_at({18})), RECIPE.replace(nonfinite="rollback", schedule="constant")
    run = sf.train(task, recipe, tmp_path / "run", quiet=True)
    assert "back to step 14, with 0.5 of its learning rate" in caplog.text
    assert run.summary["status"] == "finished"
    assert run.summary["ledger"]["rollbacks"] == 1
    assert [step for step, _ in run.signal("train/loss")] == list(range(1, 29))
    assert [lr for _, lr in run.signal("train/lr")] == [0.03] * 14 + [0.015] * 14
    assert [event.facts["of"] for event in run.events("rollback")] == [18]


def test_rolling_back_for_ever_is_an_error(tmp_path):
    task, recipe = toy(loss=bad_at({18}, once=False)), RECIPE.replace(nonfinite="rollback")
    with pytest.raises(sf.UserError, match=r"step 15 .*after 3 returns to step 14"):
        sf.train(task, recipe, tmp_path / "run", quiet=True)


def test_without_a_checkpoint_a_rollback_is_an_error(tmp_path):
    with pytest.raises(sf.UserError, match="the loss is nan at step 3"):
        sf.train(toy(loss=bad_at({3})), RECIPE.replace(nonfinite="rollback"), tmp_path / "run", quiet=True)


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


class RootOfNothing(nn.Module):
    """Its values are sound, its derivative is infinity times zero."""

    def forward(self, x):
        return (x * 0).sqrt()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 8), Root(), nn.Linear(8, 2)), r"first in the output of 1 \(Root\): \d+ of"),
        (
            lambda: nn.Sequential(nn.Linear(4, 8), RootOfNothing(), nn.Linear(8, 2)),
            r"first in the gradient of the output of 0 \(Linear\)",
        ),
    ],
    ids=["forward", "backward"],
)
def test_the_first_bad_tensor_is_named(tmp_path, model, words):
    with pytest.raises(sf.UserError, match=words):
        sf.train(toy(model=model), RECIPE, tmp_path / "run", quiet=True)


def test_a_failed_step_is_kept_and_can_be_computed_again(tmp_path):
    x, y = toy().train
    x = x.clone()
    x[40, 2] = float("inf")
    with pytest.raises(sf.UserError, match=r"first in the batch at 0: 1 of 40 .*surefoot replay") as error:
        sf.train(toy(train=(x, y)), RECIPE.replace(seed=4), tmp_path / "run", quiet=True)
    run = sf.Run(tmp_path / "run")
    kept = run.failure.state()["batches"]
    assert f"at step {run.failure.step}:" in str(error.value)
    assert int(torch.isinf(kept[0][0]).sum()) == 1
    assert replay(run, toy(), torch.device("cpu")) == "the batch at 0: 1 of 40 values are no numbers"


def test_a_run_that_did_not_fail_has_nothing_to_compute_again(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    with pytest.raises(sf.UserError, match="has kept no failed step"):
        replay(run, toy(), torch.device("cpu"))
