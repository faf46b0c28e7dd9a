from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F

import surefoot as sf
from surefoot.train.data import Batches
from surefoot.train.stop import Interrupted


def toy(n: int = 64, **changes) -> sf.Task:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 4, generator=generator)
    data = (x, (x.sum(1) > 0).long())
    options = {
        "model": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
        "loss": nn.CrossEntropyLoss(),
        "train": data,
        "val": data,
        "metric": sf.metrics.accuracy,
        "name": "toy",
    }
    return sf.Task(**{**options, **changes})


RECIPE = sf.Recipe(lr=0.03, epochs=4, batch_size=10, schedule="linear(0.1, 1, 2) >> cosine", clip_norm=0.5, seed=3)


def weights(task: sf.Task, checkpoint) -> list[torch.Tensor]:
    model = task.model()
    checkpoint.load_model(model)
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_it_is_the_hand_written_loop_bit_for_bit(tmp_path, every):
    """The guide's template with the same batches ends at exactly the same weights."""
    task, recipe = toy(), RECIPE.replace(schedule_every=every)
    run = sf.train(task, recipe, tmp_path / "run", quiet=True)

    torch.manual_seed(recipe.seed)
    model = task.model()
    optimizer = sf.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = Batches(task.train, 10, recipe.seed, "training")
    schedule = sf.schedule.drive(optimizer, lr=recipe.schedule, total=4 if every == "epoch" else 4 * len(batches))
    norms = []
    for epoch in range(4):
        model.train()
        for inputs, targets in batches.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
            optimizer.step()
            if every == "step":
                schedule.step()
        if every == "epoch":
            schedule.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights(task, run.last), strict=True))
    assert [value for _, value in run.signal("train/grad_norm")] == norms


def test_everything_is_recorded(tmp_path):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert [step for step, _ in run.signal("train/loss")] == list(range(1, 29))
    assert [step for step, _ in run.signal("val/accuracy")] == [7, 14, 21, 28]
    shape = RECIPE.shape(4)
    assert [lr for _, lr in run.signal("train/lr")] == pytest.approx([0.03 * shape(step // 7) for step in range(28)])
    events = EventAccumulator(str(run.dir / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "train/lr", "train/grad_norm", "val/loss", "val/accuracy"):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in run.signal(name)
        ]
    summary = json.loads((run.dir / "summary.json").read_text())
    assert (summary["status"], summary["epochs"], summary["steps"]) == ("finished", 4, 28)
    assert (run.dir / summary["best"]["path"] / "model.safetensors").is_file()
    assert sf.Recipe.load(run.dir / "recipe.toml") == RECIPE
    assert run.task["task"] == "toy"


def test_the_best_checkpoint_is_the_best(tmp_path):
    run = sf.train(toy(), RECIPE.replace(epochs=8), tmp_path / "run", quiet=True)
    values = [value for _, value in run.signal("val/accuracy")]
    assert run.best.values["val/accuracy"] == max(values)
    assert run.best.epoch == values.index(max(values)) + 1
    task = toy()
    model = task.model()
    run.best.load_model(model)
    right, count = sf.metrics.accuracy(model(task.val[0]), task.val[1])
    assert right / count == max(values)


def test_validation_is_in_eval_mode_without_gradients_over_every_item(tmp_path):
    modes = []

    def metric(outputs, targets):
        modes.append((outputs.requires_grad, len(targets)))
        return outputs.mean()  # a mean: weighted by its batch

    task = toy(metric=metric, model=lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)))
    run = sf.train(task, RECIPE.replace(epochs=1), tmp_path / "run", quiet=True)
    assert modes == [(False, 10)] * 6 + [(False, 4)]
    model = task.model()
    run.last.load_model(model)
    outputs = model.eval()(task.val[0])
    assert run.last.values["val/metric"] == pytest.approx(outputs.mean().item(), abs=1e-6)
    assert run.last.values["val/loss"] == pytest.approx(F.cross_entropy(outputs, task.val[1]).item(), abs=1e-6)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop_at", [3, 7, 12, 28])
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_stopping_and_going_on_changes_nothing(tmp_path, stop_at, signum, every):
    """Stopped after any step, the resumed run ends at the weights and the record of the one never stopped."""
    recipe, calls = RECIPE.replace(schedule_every=every), []

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signum)
        return F.cross_entropy(outputs, targets)

    whole = sf.train(toy(), recipe, tmp_path / "whole", quiet=True)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        sf.train(toy(loss=loss), recipe, tmp_path / "run", quiet=True)
    assert stopped.value.signum == signum
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    run = sf.Run(tmp_path / "run")
    assert run.last.step == run.summary["steps"] == stop_at
    assert run.summary["status"] == "interrupted"

    run = sf.train(toy(loss=loss), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.summary["status"] == "finished"
    pairs = zip(weights(toy(), run.last), weights(toy(), whole.last), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    for name in ("train/loss", "train/lr", "train/grad_norm", "val/loss", "val/accuracy"):
        assert run.signal(name) == whole.signal(name)


def test_stopping_while_validating(tmp_path):
    calls = []

    def metric(outputs, targets):
        calls.append(1)
        if len(calls) == 10:  # in the second validation
            signal.raise_signal(signal.SIGINT)
        return sf.metrics.accuracy(outputs, targets)

    metric.__name__ = "accuracy"
    whole = sf.train(toy(), RECIPE, tmp_path / "whole", quiet=True)
    with pytest.raises(Interrupted):
        sf.train(toy(metric=metric), RECIPE, tmp_path / "run", quiet=True)
    run = sf.train(toy(), dir=tmp_path / "run", resume=True, quiet=True)
    assert run.signal("val/loss") == whole.signal("val/loss")
    assert run.signal("train/lr") == whole.signal("train/lr")


def test_a_second_signal_stops_at_once(tmp_path):
    def loss(outputs, targets):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    with pytest.raises(Interrupted, match="at once"):
        sf.train(toy(loss=loss), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()  # nothing had happened yet


def test_resuming_refuses_another_task_or_recipe(tmp_path, caplog):
    run = sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    with pytest.raises(sf.UserError, match="trains toy, not other"):
        sf.train(toy(name="other"), dir=run.dir, resume=True)
    with pytest.raises(sf.UserError, match=r"a resumed run keeps its recipe: lr is 0\.03"):
        sf.train(toy(), RECIPE.replace(lr=1.0), dir=run.dir, resume=True)
    with pytest.raises(sf.UserError, match="there is no run in"):
        sf.train(toy(), dir=tmp_path / "none", resume=True)
    again = sf.train(toy(), RECIPE, dir=run.dir, resume=True, quiet=True)  # finished: nothing is left to do
    assert again.summary["steps"] == 28


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    whole = sf.train(toy(), RECIPE, tmp_path / "whole", quiet=True)
    killed = sf.Run.create(tmp_path / "run", toy(), RECIPE)
    run = sf.train(toy(), dir=killed.dir, resume=True, quiet=True)
    assert run.signal("train/loss") == whole.signal("train/loss")


def nan_after(step: int):
    seen = []

    def loss(outputs, targets):
        seen.append(1)
        return F.cross_entropy(outputs, targets) * (float("nan") if len(seen) >= step else 1)

    return loss


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": (torch.zeros(0, 4), torch.zeros(0))}, "the training data are empty"),
        ({"val": (torch.zeros(0, 4), torch.zeros(0))}, "the validation data are empty"),
        ({"model": lambda: nn.Flatten()}, "no trainable parameters"),
        ({"model": lambda: nn.Linear(4, 2).requires_grad_(False)}, "no trainable parameters"),
        ({"model": lambda: 3}, "must return a model"),
        ({"train": [1, 2]}, "not list"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss must return one number"),
        ({"metric": lambda o, t: sf.metrics.accuracy(o, t[:3])}, "do not fit"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, words):
    with pytest.raises(sf.UserError) as error:
        sf.train(toy(**changes), RECIPE, tmp_path / "run", quiet=True)
    assert words in str(error.value)
    assert not (tmp_path / "run").exists() or "metric" in changes  # a metric fails after an epoch: that is kept


def test_an_error_in_the_first_step_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sf.train(toy(model=lambda: nn.Linear(5, 2)), RECIPE, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_used_directory_is_refused(tmp_path):
    sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    before = sorted((p, p.stat().st_mtime) for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(sf.UserError, match="already holds a run"):
        sf.train(toy(), RECIPE, tmp_path / "run", quiet=True)
    assert sorted((p, p.stat().st_mtime) for p in (tmp_path / "run").rglob("*")) == before


def test_without_validation_there_is_a_last_checkpoint_but_no_best(tmp_path):
    run = sf.train(toy(val=None, metric=None), RECIPE, tmp_path / "run", quiet=True)
    assert run.best is None
    assert run.last.epoch == 4


def test_the_tasks_own_recipe_is_taken_where_no_other_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = sf.train(toy(recipe=RECIPE), quiet=True)
    assert run.recipe == RECIPE
    assert run.dir.as_posix() == "runs/toy"


def test_seeds_decide_everything(tmp_path):
    one, same, other = (
        sf.train(toy(), RECIPE.replace(seed=seed), tmp_path / name, quiet=True)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one.signal("train/loss") == same.signal("train/loss") != other.signal("train/loss")


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    sf.train(toy(), RECIPE, tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1/4  loss 0.")
    for word in ("lr 3.00e-03", "|g|", "val loss", "accuracy", " %", "best", "left 0:00:0"):
        assert word in lines[0]
